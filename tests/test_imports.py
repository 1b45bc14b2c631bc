"""The rooms' rule: imports point down only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "ssdnorm"

# room -> rooms that it may import, besides itself
ALLOWED = {
    "structures": set(),
    "layers": set(),
    "boxes": set(),
    "models": {"structures", "layers", "boxes", "files"},
    "losses": {"structures", "boxes"},
    "data": {"structures", "resize"},
    "metrics": {"structures", "files"},
    "engine": {"structures", "metrics", "files", "provenance"},
    "diagnose": {"structures", "layers", "files"},
    "plots": set(),
    "files": set(),
    "resize": set(),
    "provenance": set(),
    "messages": set(),
    "config": set(),
    "config_file": {"config"},
    "detector": {"structures", "layers", "boxes", "models", "losses", "resize"},
    "build": {
        "detector",
        "structures",
        "layers",
        "boxes",
        "models",
        "losses",
        "data",
        "metrics",
        "engine",
        "diagnose",
        "config",
    },
    "compare": {
        "structures",
        "detector",
        "layers",
        "data",
        "metrics",
        "engine",
        "config",
        "config_file",
        "build",
        "plots",
        "files",
    },
    "cli": {
        "structures",
        "files",
        "models",
        "detector",
        "data",
        "metrics",
        "engine",
        "config",
        "config_file",
        "build",
        "plots",
        "compare",
        "diagnose",
        "layers",
        "boxes",
        "losses",
    },
    "__main__": {"cli"},
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "ssdnorm":
                names = [f"ssdnorm.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("ssdnorm.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_rooms_below_its_own(path):
    room = room_of(path)
    above = imported_rooms(path) - ALLOWED[room] - {room, "messages", "__version__"}
    assert not above, f"{room} may import {sorted(ALLOWED[room])}; {path.name} also imports {sorted(above)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_in_its_first_line_what_it_is_about(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_layers_can_be_imported_without_the_engine():
    import subprocess
    import sys

    code = "import sys, ssdnorm; ssdnorm.L2Norm(3); assert 'pytorch_lightning' not in sys.modules, 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_sorted():
    import ssdnorm

    assert ssdnorm.__all__ == sorted(set(ssdnorm.__all__))
    for name in ssdnorm.__all__:
        assert getattr(ssdnorm, name) is not None
