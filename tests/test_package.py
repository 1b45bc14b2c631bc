"""The sdist and the wheel hold what a user needs: the commands run from an empty folder, outside of the checkout."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml
from PIL import Image

import ssdnorm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TINY = (
    *("model.width=0.02", "data.train.num_images=8", "data.test.num_images=2", "training.max_steps=2"),
    *("training.batch_size=4", "training.checkpoint_every=2", "optimizer.warmup_steps=1", "optimizer.lr_drops=[]"),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    words = ["-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    """``run("train", …)`` calls the installed command in an empty folder.

    Its environment is new and holds the wheel; the packages that ssdnorm depends on are those of this environment.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, env={**os.environ, "PYTHONPATH": ""})
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "outer.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files, this checkout's, do not count

    def call(*words: object) -> str:
        command = [environment / "bin" / "ssdnorm", *map(str, words)]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=1500)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call.folder, call.installed = folder, site / "ssdnorm"
    return call


@pytest.mark.slow
def test_a_detector_is_trained_evaluated_and_used_from_an_empty_folder(run):
    assert run("--version") == f"ssdnorm {ssdnorm.__version__}\n"
    run("train", "--config", "quickstart", "--output", "run", *(f"--{key}" for key in TINY))
    assert run("evaluate", "--run", "run").count("AP50") >= 1
    Image.new("RGB", (60, 40), "teal").save(run.folder / "picture.png")
    run("predict", "--checkpoint", "run/checkpoints/model.safetensors", "--output", "out", "picture.png")
    assert json.loads((run.folder / "out" / "detections.json").read_text())[0]["picture"] == "00000_picture.jpg"


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_a_shipped_comparison_is_read_from_an_empty_folder(run):
    def files_in(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    configs = {Path("configs") / path for path in files_in(ROOT / "configs")}
    assert files_in(run.installed) == files_in(ROOT / "ssdnorm") | configs
    assert run("compare", "--config", "compare_quickstart", "--plan", "0.01").startswith("3 arms, 2 comparisons under")


@pytest.mark.slow
def test_the_wheel_holds_the_schemas_that_the_command_writes(run):
    run("schema", "--output", "schemas")
    shipped = run.installed / "configs"
    for name in ("schema.json", "compare_schema.json", "norms/schema.json"):
        assert (shipped / name).read_text() == (run.folder / "schemas" / name).read_text(), name


@pytest.mark.slow
def test_the_sdist_holds_what_a_contributor_needs(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    needed = {"LICENSE", "CITATION.cff", "Makefile", "constraints.txt", "tests/conftest.py", "docs/norms.md"}
    assert needed <= files
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")} <= files


def test_the_citation_states_the_version_of_the_package():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == ssdnorm.__version__


def test_every_development_package_and_dependency_is_pinned_in_the_constraints():
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=!\[ ]", wish)[0].lower() for wish in wanted} - {"ssdnorm"}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names <= pinned, names - pinned


def test_versions_with_a_security_advisory_are_refused():
    (lightning,) = [wish for wish in PROJECT["dependencies"] if wish.startswith("pytorch-lightning")]
    assert {"!=2.6.2", "!=2.6.3"} <= set(re.findall(r"!=[\d.]+", lightning))
