"""Hostile text of a user: configs, overrides, comparisons, and the files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from ssdnorm.build import check_model
from ssdnorm.coco_format import ground_truth_table
from ssdnorm.compare.plan import Job, read_plan
from ssdnorm.compare.run_folders import coco_result, compare_starts, images_per_second, read_run
from ssdnorm.config_file import SHIPPED, config_to_yaml, flatten, read_config, read_yaml
from tests.fuzz.data_kinds import DETECTIONS, INSTANCES, json_bytes
from tests.fuzz.mutations import damaged, mutated
from tests.small_training import TINY, tiny_config

CONFIG: dict[str, Any] = read_yaml(SHIPPED / "quickstart.yaml")
_COMPARISON: dict[str, Any] = {
    "title": "Norms", "vary": ["norm"], "baseline": "none", "seeds": [0, 1], "metric": "AP", "target_ap50": 0.2,
    "learning_rates": {"none": [0.01]},
    "arms": {"none": {}, "batch": {"norm": "batch_norm"}},
    "base": TINY,
    "changes": {"training": {"max_steps": 3}, "norm.taps": {}},
}  # fmt: skip


def yaml_bytes(tree: Any) -> bytes:
    return yaml.dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None).encode(
        "utf-8", "surrogatepass"
    )


def read_config_file(case: bytes, folder: Path) -> object:
    path = folder / "config.yaml"
    path.write_bytes(case)
    config = read_config(path)
    config_to_yaml(config)
    return check_model(config)


def read_overrides(case: list[str], folder: Path) -> object:
    return check_model(read_config("quickstart", case))


def read_comparison(case: bytes, folder: Path) -> object:
    path = folder / "compare.yaml"
    path.write_bytes(case)
    return read_plan(path)


RUN_FILES: dict[str, bytes] = {
    "result.json": json_bytes({"metrics": {"AP": 0.5, "AP50": 0.7}, "per_class": {"cat": 0.5}, "seconds": 3.5}),
    "failure.json": json_bytes({"status": "diverged", "reason": "the loss became NaN"}),
    "start.json": json_bytes({"weights": {"a": "1"}, "batches": ["x"], "parameter_groups": []}),
    "metrics.csv": b"step,loss,images_per_second,seconds,evaluated_on,AP,AP50\n10,2.5,8.0,1.0,,,\n20,2.1,9.0,2.0,,,\n"
    b"20,,,2.0,test,0.3,0.5\n",
    "detections.json": json_bytes(DETECTIONS),
}  # fmt: skip


def read_run_files(case: tuple[str, bytes], folder: Path) -> object:
    """One damaged file among the files of a run."""
    root = folder / "comparison"
    run_folder = root / "runs" / "arm"
    run_folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**RUN_FILES, case[0]: case[1]}.items():
        if name != "failure.json" or case[0] == "failure.json":
            (run_folder / name).write_bytes(content)
        else:
            (run_folder / name).unlink(missing_ok=True)
    if case[0] == "failure.json":
        (run_folder / "result.json").unlink()
    run = read_run(Job("arm", 0, 0.1, "runs/arm", tiny_config()), root, 0.4)
    images_per_second(run_folder)
    compare_starts([run], [run], root)
    json.dumps(run.result)
    return coco_result(run, root, ground_truth_table(INSTANCES)) if run.status == "finished" else run.reason


def bomb(levels: int = 12) -> bytes:
    """Ten aliases of a list of ten aliases of …: a few hundred bytes that stand for 10^levels items."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"data: *a{levels - 1}", f"norm: {{taps: *a{levels - 1}}}"]).encode()


def _texts() -> st.SearchStrategy[str]:
    words = ["none", "batch_norm", "null", "true", "-1", "0", "1e400", ".nan", ".inf", "{", "[", "[]", "{}", "a: b: c"]
    words += ["{kind: group_norm, groups: 7}", "{kind: l2_norm, scale: x}", "os:system", "'", "!!python/name:os.system"]
    words += ["&a [*a]", "*a", "2001-99-99", "0o9", "1:60:99", "!!binary x", "!!int x", "{? [a] : b}", "x" * 5000]
    words += ["[" * 3000, "9" * 5000, "1e-400", "0.5", "7", "[1, 2]", "{a: 1}", "\x00", "ssd512_vgg16", "16-mixed"]
    return st.sampled_from(words) | st.text(max_size=6)


@st.composite
def overrides(draw: Any) -> list[str]:
    """A few options, most of them with keys that exist."""
    keys = [*flatten(CONFIG, where=""), "norm", "model", "data", "data.train", "norm.taps.fc7", "model.dropout.fc6"]
    result = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(
            st.sampled_from(keys) | st.sampled_from(["", ".", "a..b", "norm.", "x" * 3000]) | st.text(max_size=5)
        )
        value = draw(_texts())
        result += draw(st.sampled_from([[f"--{key}", value], [f"--{key}={value}"], [f"--{key}"], [value]]))
    return result


CONFIG_CASES = mutated(CONFIG).map(yaml_bytes) | damaged(yaml_bytes(CONFIG))
COMPARISON_CASES = mutated(_COMPARISON).map(yaml_bytes) | damaged(yaml_bytes(_COMPARISON))
RUN_FILE_CASES = st.sampled_from(sorted(RUN_FILES)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        damaged(RUN_FILES[name])
        if name.endswith(".csv")
        else damaged(RUN_FILES[name]) | mutated(json.loads(RUN_FILES[name])).map(json_bytes),
    )
)
YAML_FOUND = [bomb(), b"[" * 5000, b"a: &a [*a]", b"data: &a {train: *a}", b"{? {a: 1} : 2}", b"- 2001-99-99"]
YAML_FOUND += [
    b"a0: &a0 {k: 1}\n"
    + b"".join(b"a%d: &a%d {<<: [%s]}\n" % (i + 1, i + 1, b", ".join([b"*a%d" % i] * 8)) for i in range(9))
]
YAML_FOUND += [b'"\\ud800"']
YAML_FOUND += [b"a: " + b"x" * 100_000, b"\n".join(b"k%d: 1" % i for i in range(5_000)), b"0: 1", b"norm: 2001-01-01"]
CONFIG_FOUND = [*YAML_FOUND, yaml_bytes({**CONFIG, "model": {"width": 1e300}}), b'norm: "\\ud800"']
CONFIG_FOUND += [yaml_bytes({**CONFIG, "runtime": {**CONFIG["runtime"], "accelerator": "x" * 5000}})]
OVERRIDES_FOUND = [["--norm", bomb().decode()], ["--model.width", "1e300"], ["--norm.backbone", "[" * 5000]]
