"""Measure what ``compare --cluster slurm`` costs beside the training: a grid of runs that sleep, on a private Slurm.

python benchmarks/slurm_grid.py --runs 1000 --output runs/slurm_grid

The runs are stand-ins: they wait, then leave the files of a short real run. Everything else is real: the command,
submitit, Slurm, the job that follows, the report. Needs root, slurm-wlm and munge.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.private_slurm import missing, private_slurm  # noqa: E402
from tests.small_training import tiny  # noqa: E402

_ARMS = 10
# imported by every Python process that finds it; only takes the place of `python -m ssdnorm train`
_STAND_IN = """\
import os, sys
words = sys.orig_argv
if "ssdnorm" in words and words[words.index("ssdnorm") + 1 :][:1] == ["train"]:
    import shutil, time
    folder = words[words.index("--output") + 1]
    time.sleep({seconds})
    for name in {names}:
        shutil.copy(os.path.join({template!r}, name), os.path.join(folder, "." + name))
        os.rename(os.path.join(folder, "." + name), os.path.join(folder, name))
    os._exit(0)
"""
_NAMES = ["start.json", "metrics.csv", "detections.json", "result.json"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a run sleeps")
    parser.add_argument("--parallel", type=int, default=8, help="runs at once")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    arguments = parser.parse_args()
    if reason := missing():
        raise SystemExit(f"no Slurm: {reason}")
    output: Path = arguments.output.resolve()
    output.mkdir(parents=True)
    template = output / "template"
    config = tiny()
    _write(output / "config.yaml", config)
    train = [
        sys.executable,
        "-m",
        "ssdnorm",
        "train",
        "--config",
        str(output / "config.yaml"),
        "--output",
        str(template),
    ]
    subprocess.run(train, check=True, cwd=ROOT, capture_output=True)
    stand_in = output / "stand_in"
    stand_in.mkdir()
    text = _STAND_IN.format(seconds=arguments.seconds, names=_NAMES, template=str(template))
    (stand_in / "sitecustomize.py").write_text(text)
    comparison = {
        "title": "Stand-ins",
        "base": config,
        "vary": ["model.dropout"],
        "baseline": "arm_0",
        "seeds": list(range(arguments.runs // _ARMS)),
        "metric": "AP",
        "target_ap50": 0.5,
        "arms": {f"arm_{i}": {"model.dropout": i / 100} for i in range(_ARMS)},
    }
    _write(output / "compare.yaml", comparison)
    folder = Path(tempfile.mkdtemp(prefix="slurm_"))
    with private_slurm(folder / "1", cpus=arguments.parallel) as environment:
        path = f"{stand_in}:{ROOT}"
        figures = _measure(output, arguments.parallel, {**os.environ, **environment, "PYTHONPATH": path})
    shutil.rmtree(folder)
    (output / "figures.json").write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))


def _measure(output: Path, parallel: int, environment: dict[str, str]) -> dict[str, float]:
    root = output / "cmp"
    words = ["compare", "--config", str(output / "compare.yaml"), "--output", str(root)]
    words += ["--cluster", "slurm", "--slurm.parallel", str(parallel), "--slurm.minutes", "30"]
    began, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    log = (output / "command.log").open("w")
    process = subprocess.Popen([sys.executable, "-m", "ssdnorm", *words], env=environment, stdout=log, stderr=log)
    record = root / "slurm" / "submitted.json"
    while not record.exists() and process.poll() is None:
        time.sleep(0.1)
    submitted = time.time()
    watching = _processor_seconds(process.pid)
    while _live(environment) > 1 and process.poll() is None:  # all but the job that follows
        watching, at = _processor_seconds(process.pid), time.time()
        time.sleep(5)
    peak = 0
    while (code := process.poll()) is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
        time.sleep(1)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = [path.stat().st_mtime for path in root.glob("runs/*/*/result.json")]
    follow_up = [path.stat().st_mtime for path in (root / "slurm").glob("*_log.err")]
    runs = len(results)
    in_slurm = [path for path in (root / "slurm").iterdir() if path.is_file() and not path.is_symlink()]
    return {
        "exit_code": code,
        "runs": runs,
        "seconds_until_submitted": submitted - began,
        "seconds_of_the_grid": max(results) - submitted,
        "runs_per_second": runs / (max(results) - submitted),
        "processor_seconds_of_the_command_until_the_runs_ended": watching,
        "seconds_until_then": at - began,
        "seconds_from_the_last_result_to_the_first_report": max(follow_up) - max(results),
        "seconds_from_the_last_result_to_the_end_of_the_command": time.time() - max(results),
        "processor_seconds_of_the_command": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_memory_mib_of_the_command": peak / 1024,
        "files_of_submitit_per_run": len(in_slurm) / runs,
        "bytes_of_submitit_per_run": sum(path.stat().st_size for path in in_slurm) / runs,
    }


def _live(environment: dict[str, str]) -> int:
    words = ["squeue", "--noheader", "--array", "--format=%i"]
    return len(subprocess.run(words, env=environment, capture_output=True, text=True).stdout.split())


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _write(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))


if __name__ == "__main__":
    main()
