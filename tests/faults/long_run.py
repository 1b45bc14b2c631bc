"""A long run at tiny width that is killed and resumed many times: python -m tests.faults.long_run [steps] [kills].

Prints how much memory and how many open files the run has as it goes on, and whether its loss was read at every step
to the end. The default, 10,000 steps and 50 kills, takes about half an hour on a quiet core.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from ssdnorm.files import whole_rows
from tests.faults.trials import CONFIG


def run(num_steps: int, num_kills: int) -> int:
    """Kill at random steps; returns 0 if the run is complete, and as large at its end as at its beginning."""
    rng = random.Random(0)
    training = {**CONFIG["training"], "max_steps": num_steps, "checkpoint_every": 20, "eval_every": None}
    content = {**CONFIG, "training": training, "runtime": {**CONFIG["runtime"], "diagnose_every": None}}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "config.yaml").write_text(yaml.safe_dump(content))
        output, metrics = root / "run", root / "run" / "metrics.csv"
        words = ["train", "--config", str(root / "config.yaml"), "--output", str(output)]
        kill_at = sorted(rng.sample(range(num_steps // 100, num_steps), num_kills))
        readings: list[tuple[int, int, int]] = []  # step, MiB, open files
        while True:
            resume = ["--resume"] if output.exists() else []
            command = [sys.executable, "-m", "ssdnorm", *words, *resume]
            with (root / "log.txt").open("a") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log)
            while process.poll() is None:
                time.sleep(0.3)
                step = _last_step(metrics)
                if step % 50 >= 10 and (size := _size(process.pid)) is not None:
                    readings.append((step, *size))
                if kill_at and step >= kill_at[0]:
                    process.send_signal(signal.SIGKILL)
                    kill_at.pop(0)
                    break
            if process.wait() != -signal.SIGKILL:
                break
        steps = [int(row["step"]) for row in whole_rows(metrics) if row["loss"]]
        is_complete = steps == list(range(1, num_steps + 1)) and (output / "result.json").exists()
        left = [path.name for path in output.rglob(".*")]
        print(f"{len(steps)} of {num_steps} steps; complete: {is_complete}; kills left: {len(kill_at)}; left: {left}")
        tenth = max(1, len(readings) // 10)
        for start in range(0, len(readings), tenth):
            part = readings[start : start + tenth]
            mib, files = (max(row[i] for row in part) for i in (1, 2))
            print(f"to step {part[-1][0]:>6}: at most {mib} MiB resident, {files} open files")
        return 0 if is_complete and not left and process.returncode == 0 else 1


def _last_step(metrics: Path) -> int:
    rows = whole_rows(metrics)
    return int(rows[-1]["step"]) if rows else 0


def _size(pid: int) -> tuple[int, int] | None:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20, len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(run(*(numbers + [10_000, 50][len(numbers) :])))
