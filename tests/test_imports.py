"""Imports point down only, and nothing is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ssdnorm

ROOT = Path(__file__).parents[1] / "ssdnorm"

# room -> rooms that it may import, besides itself
ALLOWED = {
    "structures": "",
    "norm_specs": "",
    "validation": "norm_specs",
    "layers": "norm_specs",
    "boxes": "resize",
    "models": "structures layers boxes files resize norm_specs validation",
    "losses": "structures boxes",
    "tables": "structures",
    "coco_format": "tables",
    "yaml_files": "",
    "data": "structures tables coco_format resize yaml_files",
    "metrics": "structures tables coco_format files",
    "engine": "structures tables coco_format files provenance metrics norm_specs validation",
    "diagnose": "layers files plots",
    "plots": "structures files metrics",
    "files": "",
    "resize": "",
    "provenance": "",
    "messages": "",
    "ownership": "",
    "config": "norm_specs validation",
    "config_file": "config validation yaml_files",
    "detector": "structures layers boxes resize models losses",
    "build": "layers boxes models losses detector data engine config resize",
    "settle": "config build engine resize",
    "compare": "tables coco_format files provenance detector data metrics plots engine "
    "validation config config_file build settle ownership",
    "own_data": "tables resize boxes files data plots config config_file norm_specs build settle",
    "cli": "structures tables coco_format layers boxes files resize provenance models detector data metrics "
    "plots engine diagnose norm_specs config config_file build settle compare ownership own_data",
    "__main__": "cli",
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


def test_a_file_imports_only_rooms_below_its_own():
    unused = {room: set(rooms.split()) for room, rooms in ALLOWED.items()}
    for path in FILES:
        room, imported = room_of(path), imported_rooms(path)
        above = imported - set(ALLOWED[room].split()) - {room, "messages", "__version__"}
        assert not above, f"{room} may import {ALLOWED[room]}; {path} also imports {sorted(above)}"
        unused[room] -= imported
    assert not any(unused.values()), f"no longer imported: {unused}"


def test_every_file_has_a_docstring():
    assert [path for path in FILES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def helps(*commands: str) -> str:
    """Code that prints the help of each command, one after the other."""
    lines = ["from contextlib import suppress", "from ssdnorm.cli import main", f"for command in {commands}:"]
    return "\n".join([*lines, "    with suppress(SystemExit):", "        main([*command.split(), '--help'])"])


UNKNOWN_NORM = ["train", "--config", "quickstart", "--output", "nowhere", "--norm.backbone", "batchnorm"]


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import ssdnorm", ["torch"]),
        ("import ssdnorm; ssdnorm.L2Norm(3)", ["torchvision", "torch._dynamo", "pytorch_lightning"]),
        (helps("", "compare"), ["torch", "pydantic", "yaml", "numpy"]),
        (helps("inspect", "init"), ["torch", "numpy", "yaml"]),
        (helps("train", "evaluate", "schema", "export"), ["torch", "numpy"]),
        (f"from ssdnorm.cli import main; main({UNKNOWN_NORM})", ["torch"]),
    ],
)
def test_nothing_is_imported_that_was_not_asked_for(code, unwanted):
    check = f"atexit.register(lambda: print('loaded:', *[name for name in {unwanted} if name in sys.modules]))"
    command = [sys.executable, "-c", f"import atexit, sys\n{check}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_every_public_name_is_there_sorted_and_known_to_type_checkers():
    assert ssdnorm.__all__ == sorted(set(ssdnorm.__all__))
    for name in ssdnorm.__all__:
        assert getattr(ssdnorm, name) is not None
    assert set(ssdnorm.__all__) <= set(dir(ssdnorm))
    (block,) = [node for node in ast.parse((ROOT / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    typed = {alias.asname: node.module for node in block.body for alias in node.names}
    assert typed == {name: f"ssdnorm.{module}" for name, module in ssdnorm._MODULES.items()}
    with pytest.raises(AttributeError, match="module 'ssdnorm' has no attribute 'L2norm'"):
        ssdnorm.L2norm  # noqa: B018
