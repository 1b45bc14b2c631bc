"""A Slurm of one node for tests: its own configuration, ports, key and daemons, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol")
_PATH = "/usr/sbin:/usr/local/sbin:/sbin"

_CONF = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
SlurmdParameters=config_overrides
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait={kill_wait}
MinJobAge=2
ReturnToService=2
MaxArraySize=2001
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=60 PriorityTier=1 GraceTime=20 State=UP
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=9 State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    absent = [name for name in _PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{_PATH}") is None]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "starting slurmd needs root"


@contextlib.contextmanager
def private_slurm(folder: Path, *, cpus: int = 2, kill_wait: int = 10) -> Iterator[dict[str, str]]:
    """Run the daemons; yields the environment variables with which commands find them.

    Args:
        folder: a new one, short enough for a socket's path (100 characters).
        cpus: that the node claims to have.
    """
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir(mode=0o755)
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    conf = folder / "slurm.conf"
    host = platform.node().partition(".")[0]
    conf.write_text(_CONF.format(host=host, ports=_free_ports(2), folder=folder, cpus=cpus, kill_wait=kill_wait))
    environment = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:{_PATH}"}
    names = {"key-file": "key", "socket": "socket", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{name}" for option, name in names.items()]
    daemons: list[subprocess.Popen[bytes]] = []
    with (folder / "daemons.log").open("wb") as log:
        try:
            for words in (["munged", "-F", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
                daemons.append(
                    subprocess.Popen(words, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=folder)
                )
                _wait_for(folder, daemons, len(daemons), environment)
            yield environment
        finally:
            cancel_all({**os.environ, **environment})
            for daemon in reversed(daemons):
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def cancel_all(environment: dict[str, str]) -> None:
    """End all jobs, and wait for it."""

    def are_gone() -> bool:
        return not subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, timeout=20).stdout

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        for more in ([], ["--signal=KILL", "--full"]):
            subprocess.run(["scancel", "--user=root", *more], env=environment, timeout=20, check=False)
        _until(are_gone, 60)


def _wait_for(folder: Path, daemons: list[subprocess.Popen[bytes]], count: int, environment: dict[str, str]) -> None:
    def ready() -> bool:
        if count == 1:
            return (folder / "munge.socket").exists()
        words = ["sinfo", "--noheader", "--format=%T"] if count == 3 else ["scontrol", "ping"]
        done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
        return ("idle" if count == 3 else " UP") in done.stdout.replace("is UP", " UP")

    if not _until(ready, 60, daemons):
        raise RuntimeError(f"Slurm did not start: {(folder / 'daemons.log').read_text()[-3000:]}")


def _until(condition: Callable[[], bool], seconds: float, daemons: Sequence[subprocess.Popen[bytes]] = ()) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(daemon.poll() is None for daemon in daemons):
        if condition():
            return True
        time.sleep(0.2)
    return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
