"""Read a run folder or a comparison as values that two runs of the same config must share, all but times and commit."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

_TIMES = ("seconds", "images_per_second", "peak_memory_mib", "elapsed", "seconds_to_target", "mean_images_per_second")
_COMMIT = "commit"  # of a checkout in which somebody commits during a long test
_DRAWN_TIMES = ("report.html", "figures/", "table.md", "results.csv", "results.json")  # times are part of them


def read_folder(folder: Path) -> dict[str, Any]:
    """Path below the folder → content without times; ``log.txt`` is left out, TensorBoard's files count as one."""
    content: dict[str, Any] = {}
    events: dict[str, dict[str, dict[int, float]]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name == "log.txt":
            continue
        if path.name.startswith("events.out"):
            for tag, scalars in _events(path).items():
                events.setdefault(str(path.parent.relative_to(folder)), {}).setdefault(tag, {}).update(scalars)
        elif name.startswith(_DRAWN_TIMES):
            content[name] = path.stat().st_size > 0
        elif path.suffix == ".csv":
            content[name] = [_timeless(row) for row in csv.DictReader(io.StringIO(path.read_text()))]
        elif path.suffix == ".json":
            content[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix == ".ckpt":
            content[name] = _plain(torch.load(path, weights_only=True))
        else:
            content[name] = path.read_bytes()
    return {**content, **events}


def differences(expected: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """The files in which two folders differ, each with how."""
    found = []
    for name in sorted(expected.keys() | got.keys()):
        if name not in got:
            found.append(f"{name} is missing")
        elif name not in expected:
            found.append(f"{name} is left over")
        elif expected[name] != got[name]:
            found.append(f"{name} differs: {_first_difference(expected[name], got[name])}")
    return found


def _first_difference(expected: Any, got: Any) -> str:
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in expected.keys() | got.keys():
            if expected.get(key) != got.get(key):
                return f"{key}: {_first_difference(expected.get(key), got.get(key))}"
    return f"{str(expected)[:80]} | {str(got)[:80]}"


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key not in (*_TIMES, _COMMIT)}
    return [_timeless(value) for value in content] if isinstance(content, list) else content


def _plain(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        return (str(content.dtype), content.flatten().tolist())
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items() if key not in _TIMES}
    return [_plain(value) for value in content] if isinstance(content, list | tuple) else content


def _events(path: Path) -> dict[str, dict[int, float]]:
    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = [tag for tag in accumulator.Tags()["scalars"] if not re.search("|".join(_TIMES), tag)]
    return {tag: {event.step: event.value for event in accumulator.Scalars(tag)} for tag in tags}
