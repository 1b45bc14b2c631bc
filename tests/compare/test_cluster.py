"""Comparisons on a Slurm of one node that the tests start; and without it: options, shards, commands that clash."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from ssdnorm.cli import main
from ssdnorm.compare import cluster, run_process, slurm_options
from ssdnorm.compare.plan import read_plan, shard_of
from ssdnorm.compare.run_process import RunTask, record_failure, without_job
from ssdnorm.ownership import owned_folder
from tests import private_slurm
from tests.compare.conftest import wait_until
from tests.compare.test_plan import CONTENT
from tests.faults.folders import differences, read_folder
from tests.faults.forked_runs import compare_with_forked_runs
from tests.faults.kills import in_child

STEPS = 30
STOPPED = "told to stop; resuming continues from here"
BASE = {
    "norm": {"taps": {"conv4_3": "l2_norm"}},
    "model": {"width": 0.02, "dropout": 0.5},
    "data": {
        "train": {"format": "shapes", "num_images": 10, "seed": 1},
        "validation": {"format": "shapes", "num_images": 2, "seed": 3},
        "test": {"format": "shapes", "num_images": 2, "seed": 2},
    },
    "optimizer": {"lr": 0.004, "warmup_steps": 2},
    "training": {"max_steps": STEPS, "batch_size": 2, "checkpoint_every": 1000},  # none before the last
    "runtime": {"accelerator": "cpu", "devices": 1, "log_every": 1},
}
GRID = {
    **CONTENT,
    "vary": ["norm"],
    "seeds": [0, 1],
    "metric": "AP",
    "learning_rates": {"group_norm": [0.002, 0.004]},
    "arms": {
        "l2_norm": {},
        "none": {"norm.taps.conv4_3": "none"},
        "group_norm": {"norm.taps.conv4_3": {"kind": "group_norm", "groups": 2}},
    },
    "base": BASE,
}


@pytest.fixture
def words(tmp_path):
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    return ["compare", "--config", str(tmp_path / "compare.yaml"), "--output", str(tmp_path / "cmp")]


@pytest.fixture(scope="module")
def daemons():
    """The environment variables of a Slurm that ends with the tests of this file."""
    if reason := private_slurm.missing():
        pytest.skip(f"no Slurm: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="slurm_"))  # pytest's own are too long for a socket
    try:
        with private_slurm.private_slurm(folder / "1") as environment:
            yield {**os.environ, **environment}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(daemons):
    """The same, without jobs when the test ends."""
    yield daemons
    private_slurm.cancel_all(daemons)


def command(words, environment):
    def hear():  # a shell's background job ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "ssdnorm", *words], env=environment, preexec_fn=hear, **streams)


def slurm_says(environment, *words):
    return subprocess.run(
        words, env=environment, capture_output=True, text=True
    ).stdout  # a slow controller answers late


def in_training(root, pattern="*/*", but=()):
    """The folder of a run that has made some steps and is far from its end."""

    def found():
        for path in root.glob(f"runs/{pattern}/metrics.csv"):
            if path.parent not in but and 3 < len(path.read_text().splitlines()) < STEPS // 2:
                return path.parent
        return None

    return wait_until(found)


@contextlib.contextmanager
def held_in_training(root, pattern="*/*", but=()):
    """A run in training that stands still until a signal from Slurm waits for it: a fast one would end before."""
    folder = in_training(root, pattern, but)
    [process] = [
        path.parent
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"\0--output\0{folder}\0" in path.read_text(errors="replace")
    ]
    os.kill(int(process.name), signal.SIGSTOP)
    wait_until(lambda: _status(process)["State"].startswith("T"))
    yield folder

    def is_told():
        try:
            status = _status(process)
        except OSError:  # it has ended
            return True
        waiting = int(status["ShdPnd"], 16)
        told = any(waiting >> number - 1 & 1 for number in (signal.SIGUSR2, signal.SIGTERM))
        return told or not status["State"].startswith("T")

    wait_until(is_told)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(process.name), signal.SIGCONT)


def _status(process):
    return dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())


def task_of(root, folder):
    return json.loads((root / "slurm/submitted.json").read_text())["runs"][str(folder.relative_to(root))]


@pytest.mark.slow
def test_a_grid_that_is_signalled_requeued_and_out_of_time_equals_a_local_one(words, slurm, tmp_path):
    root, local = tmp_path / "cmp", tmp_path / "local"
    words = [*words, "--seeds", "0"]
    slurm_words = ["--cluster", "slurm", "--slurm.minutes", "5", "--slurm.parallel", "2", "--slurm.comment=a test"]
    begun, process = time.monotonic(), command([*words, *slurm_words], slurm)
    try:
        with held_in_training(root) as late:
            with held_in_training(root, but=[late]) as signalled:
                # it may send the signal again and again until the task has ended
                signal_words = ["scancel", "--signal=USR2", task_of(root, signalled)]
                sending = subprocess.Popen(signal_words, env=slurm, stderr=subprocess.DEVNULL)
            with held_in_training(root, but=[signalled, late]) as requeued:
                slurm_says(slurm, "scontrol", "requeue", task_of(root, requeued))
            again = command([*words, *slurm_words], slurm)  # the same command, once more
            sending.kill()
            sending.wait()
            minutes = 1 + int(time.monotonic() - begun + 25) // 60  # the signal comes 20 seconds before the end
            slurm_says(slurm, "scontrol", "update", f"jobid={task_of(root, late)}", f"timelimit={minutes}")
        wait_until(lambda: STOPPED in (late / "log.txt").read_text())
        slurm_says(slurm, "scontrol", "update", f"jobid={task_of(root, late)}", "timelimit=5")
        printed, errors = process.communicate(timeout=3000)
        assert process.returncode == 0, errors
        assert "report:" in printed
        assert again.communicate(timeout=3000)[1].count("submitted") == 0, "Slurm has these runs already"
        assert again.returncode == 0
    finally:
        process.kill()
    for folder in (signalled, requeued, late):
        log = (folder / "log.txt").read_text()
        assert STOPPED in log, folder
        assert "begins anew" not in log, folder
    assert not list(root.rglob("hpc_ckpt*")), "Lightning's own"

    compare_with_forked_runs(*words[1:3], "--seeds", "0", "--output", str(local), "--jobs", "2", draw=True)
    record = json.loads((root / "slurm/submitted.json").read_text())
    assert len(record["runs"]) == 5, "two stages: four runs at first, then the seed of the arm with several rates"
    shutil.rmtree(root / "slurm")
    assert differences(read_folder(local), read_folder(root)) == []


@pytest.mark.slow
def test_runs_that_are_cancelled_are_reported_and_made_when_the_command_is_started_again(words, slurm, tmp_path):
    root = tmp_path / "cmp"
    endless = {**GRID, "base": {**BASE, "training": {**BASE["training"], "max_steps": 100_000}}}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(endless, sort_keys=False))
    slurm_words = ["--cluster", "slurm", "--slurm.minutes", "5"]
    process = command([*words, *slurm_words, "--seeds", "0"], slurm)
    try:
        in_training(root)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=600)[1]
        assert process.returncode == 130
        cancel = re.search(r"To cancel them: (scancel .*)", errors)[1]
        assert slurm_says(slurm, "squeue", "--noheader"), "the jobs go on"
        watching = command([*words, "--watch"], slurm)
        slurm_says(slurm, *cancel.split())
        assert "l2_norm" in watching.communicate(timeout=600)[1]
        assert watching.returncode == 0
    finally:
        process.kill()
    assert not slurm_says(slurm, "squeue", "--noheader")
    assert not list(root.rglob("result.json"))
    for name in ("l2_norm/lr0.004_seed0", "none/lr0.004_seed0"):
        (root / "runs" / name).mkdir(parents=True, exist_ok=True)
        (root / "runs" / name / "result.json").write_text("{}")  # stand-ins
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_GONE_SECONDS", 0.0)
        for name, text in slurm.items():
            patch.setenv(name, text)
        plan = read_plan(words[2], seeds="0")
        jobs = plan.first_jobs(plan.given_rates)
        cluster.record_lost(jobs, root)
        failures = list(root.rglob("failure.json"))
        assert len(failures) == 2
        assert "ended without a result; see slurm/" in failures[0].read_text()
        options = slurm_options.read_options({"minutes": "5"}, plan)
        assert not cluster.submit_next([(jobs, [])], root, options, again=False)
        assert cluster.submit_next([(jobs, [])], root, options, again=True)
        assert len(cluster.live_tasks(root)) == 3, "two runs and the job that follows them"
        slurm_says(slurm, *cancel.split())


@pytest.mark.slow
def test_options_are_checked_by_slurm_before_anything_is_submitted(words, slurm, tmp_path, monkeypatch, capsys):
    for name, text in slurm.items():
        monkeypatch.setenv(name, text)
    for given, message in (
        ("--slurm.partition shrot", "unknown partition 'shrot'; choose one of: short, urgent. Did you mean 'short'"),
        ("--slurm.minutes 61", "--slurm.minutes: partition short allows 60; got 61"),
        ("--slurm.constraint a100", "sbatch: allocation failure: Invalid feature specification"),
        ("--slurm.gpus 1", "sbatch: Invalid generic resource"),
        ("--slurm.memory 100G", "sbatch: allocation failure: Requested node configuration is not available"),
        ("--slurm.mail-tipe END", "sbatch: unrecognized option '--mail-tipe=END'"),
    ):
        assert main([*words, "--cluster", "slurm", *given.split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    monkeypatch.setattr(slurm_options.importlib.util, "find_spec", lambda _: None)
    assert main([*words, "--cluster", "slurm"]) == 2
    assert "pip install 'ssdnorm[slurm]'" in capsys.readouterr().err
    assert not (tmp_path / "cmp").exists()
    assert not slurm_says(slurm, "squeue", "--noheader")


@pytest.mark.slow
def test_a_local_grid_inside_an_allocation_of_several_tasks_trains(words, slurm, tmp_path):
    base = {**BASE, "training": {"max_steps": 1, "batch_size": 2}}
    content = {**GRID, "learning_rates": {}, "seeds": [0], "base": base}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\n{sys.executable} -m ssdnorm {' '.join(words)} --jobs 2\n")
    options = ["--wait", "--ntasks=2", "--job-name=grid", f"--output={tmp_path}/job.txt"]
    done = subprocess.run(["sbatch", *options, str(script)], env=slurm, check=False)
    assert done.returncode == 0, (tmp_path / "job.txt").read_text()
    assert len(list((tmp_path / "cmp").rglob("result.json"))) == 3


def test_options_of_slurm_are_typed_and_further_ones_go_to_sbatch():
    given, rest = slurm_options.split_options(
        ["--slurm.mail-type", "END", "--slurm.gpus=2", "--base.x", "1", "--slurm.exclusive", "true"]
    )
    assert rest == ["--base.x", "1"]
    options = slurm_options.SlurmOptions(**given, minutes=1)
    expected = {"gpus-per-node": 2, "cpus-per-task": 1, "requeue": True, "mail-type": "END", "exclusive": True}
    assert options.sbatch() == expected
    assert "gpus-per-node" not in options.sbatch(gpus=False), "the report needs none"
    assert options.signal_seconds == 20, "of the minute"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--slurm.gpus 1", "--slurm.gpus: is for --cluster slurm"),
        ("--cluster slurm --jobs 2", "--jobs: not with --cluster; use --slurm.parallel"),
        ("--cluster slurm --shard 1/2", "--shard and --cluster: choose one of the two"),
        ("--shard 1/2 --no-training", "--no-training: not allowed with argument --shard"),
        ("--watch --jobs 2", "--jobs: not with --watch"),
        ("--shard 3/2", "--shard: got '3/2'; expected I/N"),
        ("--cluster slurm --slurm.minutes 0", "--slurm: minutes: must be greater than 0; got '0'"),
        ("--cluster slurm --slurm.memory 3x", "--slurm: memory: "),
        ("--cluster slurm --slurm.time 3", "--slurm.time: is set by compare. use --slurm.minutes"),
        ("--cluster slurm --slurm.array 3", "--slurm.array: is set by compare"),
        ("--cluster slurm --slurm.gpus", "expected --slurm.key value"),
        ("--cluster slurm --base.runtime.num_nodes 2", "a run on Slurm is one task on one node"),
        ("--cluster slurm", "no such command on this machine"),
        ("--watch", "squeue"),
        ("--cluster slurm --watch", "squeue"),
    ],
)
def test_options_that_clash_or_cannot_be_are_refused_in_one_line(more, message, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*words, *more.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_grid_on_gpus_asks_slurm_for_them(accelerator, words):
    plan = read_plan(words[2])
    runtime = plan.base.runtime.model_copy(update={"accelerator": accelerator})
    plan = dataclasses.replace(plan, base=plan.base.model_copy(update={"runtime": runtime}))
    with pytest.raises(ValueError, match=rf"--slurm\.gpus: base\.runtime\.accelerator is {accelerator}; ask for GPUs"):
        slurm_options.read_options({"minutes": "5"}, plan)


def test_shards_are_fixed_disjoint_complete_and_even_over_arms(words):
    plan = read_plan(words[2], seeds="0-4")
    jobs = plan.jobs(plan.given_rates, {"l2_norm": 0.004, "none": 0.004, "group_norm": 0.002})
    shards = [shard_of(jobs, index, 3) for index in (1, 2, 3)]
    assert sorted(job.folder for shard in shards for job in shard) == sorted(job.folder for job in jobs)
    assert {len(shard) for shard in shards} == {5, 6}
    for arm in plan.arms:
        counts = [Counter(job.arm for job in shard)[arm.name] for shard in shards]
        assert max(counts) - min(counts) <= 1
    assert shard_of(jobs, 2, 3) == shards[1]


def test_shards_make_their_runs_and_wait_for_each_other_where_rates_are_chosen(words, tmp_path, monkeypatch, caplog):
    root, made = tmp_path / "cmp", []

    def stand_in(jobs, root, num_parallel, later=()):
        for job in jobs:
            if not (root / job.folder).exists():
                made.append(job.folder)
                (root / job.folder).mkdir(parents=True)
                content = {
                    "metrics": {"AP": 0.1},
                    "metrics_validation": {"AP": job.lr},
                    "per_class": {},
                    "versions": {},
                }
                content |= dict.fromkeys(("seconds", "parameters", "peak_memory_mib", "threads", "world_size"), 1)
                content |= {"device": "cpu", "commit": None}
                (root / job.folder / "result.json").write_text(json.dumps(content))

    monkeypatch.setattr("ssdnorm.compare.launcher.launch", stand_in)
    caplog.set_level("INFO")
    assert main([*words, "--shard", "1/2"]) == 0
    assert len(made) == 3
    assert "start every shard once more" in caplog.text.replace("\n", " ")
    assert main([*words, "--shard", "2/2"]) == 0  # in the same folder, which is as good as copied together
    assert len(made) == 6 + 1, "all of the first stage, and one of the seeds with the chosen rate"
    assert main([*words, "--shard", "1/2"]) == 0
    assert sorted(made)[:2] == ["runs/group_norm/lr0.002_seed1000", "runs/group_norm/lr0.004_seed0"]
    assert len(set(made)) == len(made) == 8
    assert not (root / "report.html").exists()


def test_a_task_of_a_finished_or_owned_run_leaves_it_alone(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    RunTask(folder, "config: none", seconds=1.0)()
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    (folder / "result.json").unlink()
    monkeypatch.setattr(run_process, "_OWNER_SECONDS", 0.0)
    with owned_folder(folder):
        RunTask(folder, "config: none", seconds=1.0)()
        assert not (folder / "log.txt").exists()
        assert in_child(lambda: record_failure(folder, "lost") or 0, tmp_path / "output.txt") == 0
        assert not (folder / "failure.json").exists()
    record_failure(folder, "lost", exit_code=3)
    expected = {"status": "failed", "reason": "lost", "exit_code": 3}
    assert json.loads((folder / "failure.json").read_text()) == expected


def test_a_task_that_never_reaches_a_checkpoint_is_a_failure_in_the_end(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of this process
    sleeping = subprocess.Popen(["sleep", "60"])
    task = RunTask(tmp_path, "", seconds=1.0, idle=3)
    task._pid, task._before = sleeping.pid, None
    again = task.checkpoint()  # sleep ends on the signal
    assert sleeping.wait() == -12
    assert (again.function.idle, again.function.folder) == (4, tmp_path)
    again.function._pid, again.function._before = subprocess.Popen(["true"]).pid, None
    assert again.function.checkpoint() is None
    assert "stopped 5 times in a row" in (tmp_path / "failure.json").read_text()


def test_variables_of_a_job_do_not_reach_a_run():
    job = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_CONF": "kept", "SBATCH_ACCOUNT": "the user's", "A": "1"}
    assert without_job(job) == {"SLURM_CONF": "kept", "SBATCH_ACCOUNT": "the user's", "A": "1"}
