"""The launcher: which runs it starts, with what, and how they ended. A script stands in for the training."""

import json
import multiprocessing
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
import yaml

from ssdnorm.compare import launcher
from ssdnorm.compare.launcher import launch
from ssdnorm.compare.plan import read_plan
from ssdnorm.compare.run_folders import read_run, state_of
from ssdnorm.config_file import config_to_yaml, merge_config

from .conftest import wait_until
from .test_plan import CONTENT

PYTHON = sys.executable  # before the stand-in takes its place

# what it does depends on the arm and the seed, which are in the name of the run folder
TRAINING = """\
#!{python}
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output") + 1])
with Path({calls!r}).open("a") as calls:
    call = {{"run": str(folder), "pid": os.getpid(), "words": sys.argv[1:], "threads": os.environ["OMP_NUM_THREADS"]}}
    calls.write(json.dumps(call) + "\\n")
print("training", folder)
if "no_dropout" in str(folder) and "seed3" in str(folder):
    (folder / "failure.json").write_text('{{"status": "diverged", "reason": "step 2: the loss is not finite"}}')
    sys.exit(2)
if "batch_norm" in str(folder) and not Path({mended!r}).exists():
    print("error: No space left on device", file=sys.stderr)
    sys.exit(2)
if "l2_norm" in str(folder) and Path({hang!r}).exists():
    time.sleep(3600)
for _ in range(30_000):  # ten minutes, for a loaded machine
    if not Path({together!r}).exists() or len(Path({calls!r}).read_text().splitlines()) >= 3:
        break
    time.sleep(0.02)
else:
    sys.exit(3)
(folder / "result.json").write_text("{{}}")
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump({**CONTENT, "learning_rates": {}}, sort_keys=False))
    script = tmp_path / "training"
    names = {name: str(tmp_path / name) for name in ("calls", "mended", "hang", "together")}
    script.write_text(TRAINING.format(python=PYTHON, **names))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(launcher.sys, "executable", str(script))
    monkeypatch.setattr(launcher, "_POLL_SECONDS", 0.02)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = read_plan(tmp_path / "compare.yaml")
    return plan.first_jobs(plan.given_rates)


def calls(tmp_path):
    path = tmp_path / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_failures_are_recorded_and_tried_again_but_a_diverged_run_is_a_result(jobs, tmp_path):
    root = tmp_path / "cmp"
    launch(jobs, root)
    assert [(job.arm, job.seed) for job in jobs[:3]] == [("l2_norm", 3), ("batch_norm", 3), ("no_dropout", 3)]
    states = [state_of(job, root) for job in jobs]
    assert states == ["finished", "failed", "diverged", "finished", "failed", "finished"]
    assert read_run(jobs[1], root, 0.5).reason == "No space left on device"
    assert read_run(jobs[2], root, 0.5).reason == "step 2: the loss is not finite"
    assert "training" in (root / jobs[0].folder / "log.txt").read_text()

    before = len(calls(tmp_path))
    (tmp_path / "mended").touch()
    launch(jobs, root)
    again = [Path(call["run"]).parent.name for call in calls(tmp_path)[before:]]
    assert again == ["batch_norm", "batch_norm"]
    assert [state_of(job, root) for job in jobs].count("finished") == 5
    launch(jobs, root)
    assert len(calls(tmp_path)) == before + 2, "nothing is left to do"


def test_every_run_is_the_train_command_on_its_own_config(jobs, tmp_path):
    (tmp_path / "mended").touch()
    launch(jobs, tmp_path / "cmp")
    words = calls(tmp_path)[1]["words"]
    folder = tmp_path / "cmp" / jobs[1].folder
    assert words == ["-m", "ssdnorm", "train", "--config", f"{folder}/config.yaml", "--output", str(folder), "--resume"]
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["norm"]["backbone"] == "batch_norm"
    assert (written["training"]["seed"], written["optimizer"]["lr"]) == (3, 0.004)


def test_parallel_runs_share_the_cores(jobs, tmp_path, monkeypatch):
    (tmp_path / "mended").touch()
    monkeypatch.setattr(launcher.os, "sched_getaffinity", lambda _: set(range(7)))
    (tmp_path / "together").touch()  # nobody ends before three have begun
    launch(jobs, tmp_path / "cmp", num_parallel=3)
    assert len(calls(tmp_path)) == 6
    assert "failed" not in {state_of(job, tmp_path / "cmp") for job in jobs}, "three have not begun together"
    launch(jobs[:1], tmp_path / "again", num_parallel=3)
    assert {call["threads"] for call in calls(tmp_path)} == {"2"}, "a run that is alone gets no more than the others"


def test_gpus_are_shared_out_evenly(monkeypatch):
    monkeypatch.setattr(launcher.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launcher.torch.cuda, "device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def shares(num_slots):
        return [e["CUDA_VISIBLE_DEVICES"] for e in launcher._environments(num_slots)]

    assert shares(2) == ["0,1", "2,3"], "the fifth stays idle, so that all runs have as many"
    assert shares(7) == ["0", "1", "2", "3", "4", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,4")
    assert shares(2) == ["6", "4"]


def test_a_folder_with_another_config_is_refused_before_anything_runs(jobs, tmp_path):
    root = tmp_path / "cmp"
    old = root / jobs[3].folder / "config.yaml"
    old.parent.mkdir(parents=True)
    other = merge_config(("", jobs[3].config.model_dump()), ("", {"norm.backbone": "group_norm"}))
    old.write_text(config_to_yaml(other))
    with pytest.raises(ValueError, match=r"seed5.config\.yaml: this run has another config.*norm\.backbone"):
        launch(jobs, root)
    assert not calls(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_run_outlives_a_comparison_that_is_stopped(jobs, tmp_path, number):
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent is gone")
    (tmp_path / "hang").touch()

    def compare():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        try:
            launch(jobs, tmp_path / "cmp")
        except KeyboardInterrupt:  # the run was stopped by launch, not by the end of this process
            sys.exit(8 if _alive(calls(tmp_path)[0]["pid"]) else 7)

    process = multiprocessing.get_context("fork").Process(target=compare)
    process.start()
    run = None
    try:
        run = wait_until(lambda: calls(tmp_path))[0]["pid"]
        os.kill(process.pid, number)
        process.join(600)
        assert process.exitcode == (-signal.SIGKILL if number == signal.SIGKILL else 7)
        wait_until(lambda: not _alive(run))
        assert not list(tmp_path.rglob("result.json")), "it was not stopped, it ended"
    finally:
        process.kill()
        if run and _alive(run):
            os.kill(run, signal.SIGKILL)


def _alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "", r"config\.yaml: data: is missing; delete the run folder"),
        ("config.yaml", "- 1", r"config\.yaml: expected keys and values; got \[1\]; delete the run"),
        ("config.yaml", "[1", r"config\.yaml: not readable as YAML: .*; delete the run folder"),
        ("failure.json", "{}", r"failure\.json: damaged; delete the run folder to repeat the run: status: is missing"),
        ("failure.json", "", r"failure\.json: damaged; delete the run"),
        ("failure.json", '{"status": "odd", "reason": ""}', r"status: must be 'diverged' or 'failed'; got 'odd'"),
        ("result.json", "", r"result\.json: damaged; delete the run"),
        ("result.json", "{}", r"result\.json: damaged; .*: metrics: is missing"),
        ("result.json", "[" * 100_000, r"result\.json: damaged; delete the run"),
        ("metrics.csv", "step,AP50,evaluated_on,seconds\n1,0.9,test,long\n", r"metrics\.csv: damaged; .*'long'"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(jobs, tmp_path, name, content, message):
    folder = tmp_path / "cmp" / jobs[0].folder
    folder.mkdir(parents=True)
    (folder / name).write_text(content)

    def launch_and_read():
        if name != "metrics.csv":
            launch(jobs[:1], tmp_path / "cmp")
        read_run(jobs[0], tmp_path / "cmp", 0.5)

    with pytest.raises(ValueError, match=message):
        launch_and_read()
    assert not calls(tmp_path)


def test_the_progress_counts_what_comes_later(jobs, tmp_path, capsys):
    (tmp_path / "mended").touch()
    launch(jobs[:1], tmp_path / "cmp", later=jobs[1:])
    assert "1/6 runs:  17%" in capsys.readouterr().err
