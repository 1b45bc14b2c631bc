"""The compare command from the outside: real trainings of a tiny network."""

import dataclasses
import json
import subprocess
import sys
import time
from statistics import median

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ssdnorm.cli import main
from ssdnorm.compare.looks import spent_alpha
from ssdnorm.compare.power import Outlook
from ssdnorm.compare.statistics import pooled_std
from ssdnorm.files import FAILURE_FILE, write_json
from ssdnorm.ownership import owned_folder
from tests.compare.synthetic import make_comparison, shapes
from tests.compare.test_plan import CONTENT
from tests.faults.forked_runs import compare_with_forked_runs

TINY = {
    **CONTENT,
    "vary": ["norm", "optimizer.lr"],
    "baseline": "l2_norm",
    "seeds": [0, 1],
    "metric": "AP",
    "learning_rates": {},
    "arms": {"l2_norm": {}, "twin": {}},
    "base": {
        "norm": {"taps": {"conv4_3": "l2_norm"}},
        "model": {"width": 0.02, "dropout": 0.5},
        "data": CONTENT["base"]["data"],
        "optimizer": {"lr": 0.004, "warmup_steps": 2},
        "training": {"max_steps": 3, "batch_size": 3, "checkpoint_every": 2, "eval_every": 2},
        "runtime": {"accelerator": "cpu", "devices": 1, "log_every": 1, "diagnose_every": 2},
    },
}


def write(tmp_path, content):
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def compare(path, root, *words):
    return main(["compare", "--config", str(path), "--output", str(root), *words])


def same_weights(a, b):
    ours, theirs = load_file(a), load_file(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_mistake_ends_in_one_line_and_code_2_before_anything_is_written(tmp_path, capsys):
    path = write(tmp_path, {**TINY, "arms": {"l2_norm": {}, "x": {"training.max_steps": 4}}})
    assert compare(path, tmp_path / "cmp") == 2
    assert "arms.x: training.max_steps: arms may change norm, optimizer.lr only" in capsys.readouterr().err
    assert not (tmp_path / "cmp").exists()
    data = {**TINY["base"]["data"], "validation": {**TINY["base"]["data"]["test"], "num_images": 1}}
    path = write(tmp_path, {**TINY, "base": {**TINY["base"], "data": data}})
    assert compare(path, tmp_path / "cmp") == 2
    assert "base.data.validation: 1 of 1 images are test images, too; the first: " in capsys.readouterr().err
    path = write(tmp_path, TINY)
    assert compare(path, tmp_path / "cmp", "--no-training") == 2
    assert "--no-training" in capsys.readouterr().err
    assert not (tmp_path / "cmp").exists()


def test_an_arm_whose_choosing_run_failed_gets_no_more_seeds_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    data = {**TINY["base"]["data"], "validation": {"format": "shapes", "num_images": 3, "seed": 9}}
    content = {**TINY, "learning_rates": {"twin": [0.002, 0.004]}, "base": {**TINY["base"], "data": data}}
    path, root, grids = write(tmp_path, content), tmp_path / "cmp", []

    def lose_a_choosing_run(jobs, root, num_parallel, later=()):
        grids.append([(job.arm, job.seed, job.lr) for job in jobs])
        if later:
            failure = {"status": "failed", "reason": "disk full", "exit_code": 2}
            write_json(root / jobs[1].folder / FAILURE_FILE, failure)

    monkeypatch.setattr("ssdnorm.compare.launcher.launch", lose_a_choosing_run)
    assert compare(path, root) == 2
    ready = [("l2_norm", 0, 0.004), ("l2_norm", 1, 0.004)]
    assert grids == [[("twin", 1000, 0.002), ("twin", 1000, 0.004), *ready], ready]
    assert "runs have no result; the first: runs/l2_norm/lr0.004_seed0: did not run" in capsys.readouterr().err
    assert "disk full" in (root / "report.html").read_text()


def test_a_plan_trains_nothing_and_says_what_seeds_can_show(tmp_path, capsys):
    path = write(tmp_path, {**TINY, "margin": 0.02, "contrasts": {"again": [["twin", "l2_norm"]]}})
    words = ["compare", "--config", str(path), "--plan"]
    assert main([*words, "0.01"]) == 0
    printed = capsys.readouterr().out
    outlook = Outlook(0.01 * 2**0.5, 2)
    assert f"| 5 | {100 * outlook.detectable(5):.1f} | {100 * outlook.power(0.02, 5):.0f} % | ±" in printed
    assert "| 10 | unknown |" in printed, "five seeds of two arms"
    assert f"| 3 | {outlook.seeds_to_decide(0.03)} |" in printed
    assert "none, equivalent within ±2" in printed
    for scatter, message in (("runs/none", "neither a number nor an earlier"), ("2", r"must be in (0, 1); got 2")):
        assert main([*words, scatter]) == 2
        assert message in capsys.readouterr().err
    assert main([*words, "0.01", "--output", str(tmp_path / "cmp")]) == 2
    assert main(["compare", "--config", str(path)]) == 2
    assert "--output: give the comparison's folder" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["compare.yaml"]


def test_a_plan_takes_scatter_and_time_from_an_earlier_comparison(tmp_path, capsys):
    results = make_comparison(tmp_path / "old", seeds=(0, 1, 2), test_set=shapes(6))
    write_json(tmp_path / "old/results.json", dataclasses.asdict(results))
    path = write(tmp_path, {**TINY, "looks": [2, 5]})
    assert main(["compare", "--config", str(path), "--plan", str(tmp_path / "old")]) == 0
    printed = capsys.readouterr().out
    gaps = [arm.differences["AP"] for arm in results.arms[1:]]
    std = pooled_std([gap.paired.values for gap in gaps])
    images_std = median(gap.images_std for gap in gaps)
    level = spent_alpha([2, 5])[1]
    least = Outlook(std, 1, images_std, level).detectable(5)
    seconds = 10 * 1800.7 * (3 * 3) / (1000 * 8)  # ten runs of 3 steps of 3 images; these had 1000 of 8
    assert f"| 5 | {100 * level:.2g} | {100 * least:.1f} | " in printed
    assert f"| 10 | {seconds:.0f} s |" in printed


@pytest.mark.slow
def test_twins_are_equal_bit_by_bit_a_diverging_arm_is_reported_and_more_seeds_come_at_a_declared_look(
    tmp_path,
):
    arms = {**TINY["arms"], "wild": {"optimizer.lr": 1e12}}
    path, root = write(tmp_path, {**TINY, "looks": [2, 3], "arms": arms}), tmp_path / "cmp"
    words = ["--config", str(path), "--output", str(root), "--jobs", "2"]
    printed = compare_with_forked_runs(*words)
    assert "Look 1 of 2 declared, at a level of 1.6 %." in printed
    assert "twin is equivalent to l2_norm: the difference is exactly 0 with every seed." in printed
    assert "wild: of 2 seeds 2 diverged." in printed
    assert str(root / "report.html") in printed
    for seed in (0, 1):
        ours, theirs = (root / f"runs/{arm}/lr0.004_seed{seed}" for arm in ("l2_norm", "twin"))
        name = "checkpoints/model.safetensors"
        assert (ours / "detections.json").read_bytes() == (theirs / "detections.json").read_bytes()
        assert same_weights(ours / name, theirs / name)
    _, twin, wild = json.loads((root / "results.json").read_text())["arms"]
    assert twin["differences"]["AP"]["images"] == [0.0, 0.0]
    matched = twin["matched"]
    assert (matched["different"], matched["added"], matched["removed"]) == ([], [], [])
    assert matched["same_batches"]
    assert matched["identical"] > 70
    assert {run["status"] for run in twin["runs"]} == {"finished"}
    assert {run["status"] for run in wild["runs"]} == {"diverged"}
    report = (root / "report.html").read_text()
    assert "<svg" in report
    assert all("the loss is not finite" in text for text in (report, *(run["reason"] for run in wild["runs"])))
    assert len((root / "results.csv").read_text().splitlines()) == 7

    (root / "report.html").unlink()
    before = {p: p.stat().st_mtime_ns for p in root.glob("runs/*/*/*.json")}
    assert "Look 2 of 2 declared, at a level of 3.4 %." in compare_with_forked_runs(*words, "--seeds", "0-2")
    assert before.items() <= {p: p.stat().st_mtime_ns for p in root.glob("runs/*/*/*.json")}.items(), "trained twice"
    assert len(list(root.glob("runs/*/*/result.json"))) == 6
    assert json.loads((root / "results.json").read_text())["seeds"] == [0, 1, 2]
    assert (root / "report.html").exists()


@pytest.mark.slow
def test_an_arm_made_worse_on_purpose_comes_out_as_worse(tmp_path):
    easy = {
        "format": "shapes",
        "image_size": 64,
        "max_objects": 2,
        "min_side": 0.35,
        "max_side": 0.7,
        "class_colors": True,
    }
    base = {
        "norm": {"backbone": "batch_norm", "extras": "batch_norm", "taps": {"conv4_3": "none"}},
        "model": {
            "name": "ssd_vgg16",
            "image_size": 64,
            "width": 0.125,
            "dropout": 0.0,
            "default_boxes": {"sizes": [13, 23, 35, 51, 71]},
        },
        "data": {"train": {**easy, "num_images": 960, "seed": 1}, "test": {**easy, "num_images": 30, "seed": 2}},
        "augment": {"photometric": False, "zoom_out": False, "iou_crop": False},
        "optimizer": {"name": "adamw", "lr": 0.005, "warmup_steps": 15, "schedule": "cosine"},
        "training": {"max_steps": 120, "batch_size": 8, "clip_grad_norm": 10.0},
        "runtime": {"accelerator": "cpu", "devices": 1},
    }
    arms = {"usual": {}, "hundredth": {"optimizer.lr": 0.00005}}
    content = {**TINY, "metric": "AP50", "baseline": "usual", "seeds": [0, 1, 2], "arms": arms, "base": base}
    path, root = write(tmp_path, content), tmp_path / "cmp"
    words = ["--config", str(path), "--output", str(root), "--jobs", "2"]
    assert "is worse than usual" in compare_with_forked_runs(*words)
    results = json.loads((root / "results.json").read_text())
    assert results["arms"][1]["verdict"] == "worse"


@pytest.mark.slow
def test_a_killed_comparison_goes_on_from_the_last_checkpoint(tmp_path):
    training = {"max_steps": 30, "batch_size": 3, "checkpoint_every": 3}
    runtime = {**TINY["base"]["runtime"], "diagnose_every": None}
    base = {**TINY["base"], "training": training, "runtime": runtime}
    path, root = write(tmp_path, {**TINY, "seeds": [0], "base": base}), tmp_path / "cmp"
    words = ["compare", "--config", str(path), "--output", str(root)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "ssdnorm", *words], **silent)
    metrics = root / "runs/l2_norm/lr0.004_seed0/metrics.csv"
    try:
        for _ in range(12000):
            if metrics.exists() and len(metrics.read_text().splitlines()) > 5:
                break
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    with owned_folder(metrics.parent, further_patience=600):  # the run ends with its parent
        assert not (metrics.parent / "result.json").exists()
    compare_with_forked_runs(*words[1:])
    steps = [int(line.split(",")[0]) for line in metrics.read_text().splitlines()[1:]]
    assert steps == sorted(steps), "rows after the checkpoint were cut before it went on"
    whole = tmp_path / "whole"
    assert main(["train", "--config", str(metrics.parent / "config.yaml"), "--output", str(whole)]) == 0
    name = "checkpoints/model.safetensors"
    assert same_weights(whole / name, metrics.parent / name), "as if never interrupted"
