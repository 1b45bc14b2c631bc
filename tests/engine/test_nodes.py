"""Several processes of one training: who is the first, and two nodes on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
import yaml

from ssdnorm.engine.nodes import SameStart, check_processes, cluster_environments, is_first_process, may_be_restarted
from ssdnorm.messages import one_line
from tests.faults.kills import in_child
from tests.private_slurm import missing, private_slurm
from tests.small_training import ROOT, rows, script, tiny, train, weights

VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_PROCID",
    "MASTER_ADDR",
    "MASTER_PORT",
)
RESTARTS = {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.fixture
def environment(monkeypatch):
    for name in (*VARIABLES, *RESTARTS):
        monkeypatch.setenv(name, "")  # so that it is removed in the end, whoever sets it
        monkeypatch.delenv(name)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"SLURM_PROCID": "1"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, True),  # torchrun in Slurm
        ({"RANK": "1", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, False),
    ],
)
def test_one_process_of_a_run_is_the_first(environment, values, first):
    environment(**values)
    assert is_first_process() == first


def test_processes_that_would_train_for_themselves_and_restarts_that_cannot_work_are_refused(environment):
    check_processes(2)
    assert cluster_environments() == []
    environment(SLURM_NTASKS="2", SLURM_JOB_NAME="train")
    with pytest.raises(ValueError, match="Slurm: You set `--ntasks=2`"):
        cluster_environments()
    environment(SLURM_NTASKS_PER_NODE="2")
    (found,) = cluster_environments()
    assert not found.auto_requeue, "Lightning would write checkpoints of its own"
    environment(RANK="1", WORLD_SIZE="2")
    check_processes(2)
    (found,) = cluster_environments()
    assert (found.global_rank(), found.world_size(), found.local_rank()) == (1, 2, 0)
    with pytest.raises(ValueError, match=r"2 processes were started \(WORLD_SIZE\), but devices × num_nodes is 1"):
        check_processes(1)
    assert not may_be_restarted()
    environment(**RESTARTS)
    assert may_be_restarted()
    with pytest.raises(ValueError, match="start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        check_processes(2)


def test_a_process_that_starts_from_another_step_or_setting_than_the_first_is_refused():
    first = {"step": 4, "precision": "32-true", "images": 10}
    strategy = SimpleNamespace(broadcast=lambda _: first)
    trainer = SimpleNamespace(strategy=strategy, global_step=4, global_rank=1, world_size=2)
    SameStart({"precision": "32-true", "images": 10}).on_train_start(trainer, None)
    with pytest.raises(ValueError, match="process 1 of 2: starts with another precision, images than the first"):
        SameStart({"precision": "bf16-mixed", "images": 9}).on_train_start(trainer, None)
    trainer.global_step = 0  # its own run folder has no checkpoint
    with pytest.raises(ValueError, match="starts with another step than the first"):
        SameStart({"precision": "32-true", "images": 10}).on_train_start(trainer, None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.distributed.DistStoreError("Timed out after 5 seconds"), "Timed out after 5 seconds"),
        (
            RuntimeError("[/a/gloo/pair.cc:561] Connection closed by peer [::1]. GLHF!"),
            "Connection closed by peer [::1]",
        ),
    ],
)
def test_a_process_that_is_gone_is_one_line(error, reason):
    said = "another process of this training did not respond within runtime.timeout, or exited: "
    assert one_line(error) == said + reason


NORMS = {"norm": {"backbone": "batch_norm"}, "model": {"width": 0.02, "dropout": 0.5}}
VALIDATION = {"data": {"validation": {"format": "shapes", "num_images": 5, "seed": 3}}}
LONG = {"max_steps": 12, "batch_size": 3, "checkpoint_every": 4, "eval_every": 6, "best": "AP", "population_images": 6}


def node(folder, output, *, launcher=(), **variables):
    """Start the command as one of two nodes, in a working folder of its own."""
    folder.mkdir()
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(tiny(**NORMS, **VALIDATION, training=LONG)))
    command = [sys.executable, *launcher, "-m", "ssdnorm", "train", "--config", config, "--output", output]
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.Popen(
        [*map(str, command), "--runtime.num_nodes", "2"],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    """The run on two devices of one machine."""
    run = tmp_path_factory.mktemp("two_devices") / "run"
    done = script(run, "--runtime.devices", "2", **NORMS, **VALIDATION, training=LONG)
    assert done.returncode == 0, done.stderr
    return run


def files_of(run):
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("tensorboard")}  # one per start and process


def check_same(run, expected):
    assert files_of(run) == files_of(expected)
    for name in ("model", "model_population", "best"):
        for key, tensor in weights(expected, name).items():
            torch.testing.assert_close(weights(run, name)[key], tensor, rtol=1e-6, atol=1e-7, msg=f"{name}: {key}")
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(expected)]


@pytest.mark.slow
def test_two_devices_train_as_one_run_and_evaluate_every_image_once_with_population_statistics_too(two_devices):
    result = json.loads((two_devices / "result.json").read_text())
    assert result["world_size"] == 2
    assert set(result["metrics_population"]) == set(result["metrics"])
    assert {row["image_id"] for row in json.loads((two_devices / "detections.json").read_text())} == {1, 2, 3}


@pytest.mark.slow
def test_two_nodes_train_as_two_devices_of_one_and_only_the_first_writes_and_says_anything(tmp_path, two_devices):
    port, run = free_port(), tmp_path / "run"
    processes = [node(tmp_path / rank, run, NODE_RANK=rank, MASTER_PORT=port) for rank in "01"]
    said = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[1] == ("", "")
    assert [list((tmp_path / rank).iterdir()) for rank in "01"] == [[], []]
    check_same(run, two_devices)


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_two_tasks_of_slurm_train_as_two_devices(tmp_path, two_devices):
    config, run = two_devices.with_suffix(".yaml"), tmp_path / "run"
    words = ["srun", "--ntasks", "2", "--ntasks-per-node", "2", sys.executable, "-m", "ssdnorm", "train"]
    with TemporaryDirectory() as folder, private_slurm(Path(folder) / "slurm") as environment:
        done = subprocess.run(
            [*words, "--config", config, "--output", run, "--runtime.devices", "2"],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder: ") == 1
    check_same(run, two_devices)


@pytest.mark.slow
@pytest.mark.parametrize("rank", "01")
def test_a_node_that_never_comes_is_an_error_of_one_line_after_the_time_given(environment, tmp_path, rank):
    environment(NODE_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    words, log = ["--runtime.num_nodes", "2", "--runtime.timeout", "3"], tmp_path / "log.txt"
    assert in_child(lambda: train(tmp_path / "run", *words), log) == 2
    error = log.read_text()
    assert error.splitlines()[-1].startswith("error: another process of this training did not respond")
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_by_torchrun_and_the_weights_are_those_undisturbed(
    tmp_path, two_devices
):
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d"]
    launcher = ["-m", "torch.distributed.run", *words, "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    run, share = tmp_path / "run", {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    agents = [node(tmp_path / name, run, launcher=launcher, **share) for name in "ab"]
    try:
        deadline = time.monotonic() + 600
        while not (run / "checkpoints" / "last.ckpt").exists():
            assert time.monotonic() < deadline
            assert all(agent.poll() is None for agent in agents), agents[0].communicate()
            time.sleep(0.05)
        (worker,) = subprocess.check_output(["pgrep", "-P", str(agents[1].pid)], text=True).split()
        os.kill(int(worker), signal.SIGKILL)
        said = [agent.communicate(timeout=600) for agent in agents]
    finally:
        for agent in agents:
            agent.terminate()
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert "exitcode: -9" in said[1][1]
    check_same(run, two_devices)
