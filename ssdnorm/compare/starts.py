"""Compare what two runs started from, by the digests that each wrote at its start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdnorm.compare.results import Matched, Run
from ssdnorm.compare.run_folders import read_mapping
from ssdnorm.engine.start import START_FILE


def compare_arms(runs: Sequence[Run], baseline: Sequence[Run], root: Path) -> Matched | None:
    """Compare the starts of an arm and the baseline with the first seed that both recorded.

    Returns:
        None if no seed has both: runs made before starts were recorded, or that failed before the first step.
    """
    folders = {run.seed: root / run.folder for run in runs}
    for run in baseline:
        paths = [folder / START_FILE for folder in (folders.get(run.seed), root / run.folder) if folder is not None]
        if len(paths) == 2 and all(path.is_file() for path in paths):
            return compare_starts(*map(read_mapping, paths))
    return None


def compare_starts(ours: Mapping[str, Any], baseline: Mapping[str, Any]) -> Matched:
    """What two starts have in common; each is the content of a run's ``start.json``."""
    weights, others = ours["weights"], baseline["weights"]
    common = [name for name in weights if name in others]
    return Matched(
        identical=sum(weights[name] == others[name] for name in common),
        different=[name for name in common if weights[name] != others[name]],
        added=[name for name in weights if name not in others],
        removed=[name for name in others if name not in weights],
        same_batches=ours["batches"] == baseline["batches"],
        parameter_groups=ours["parameter_groups"],
        batch_norm_images=ours["batch_norm_images"],
    )
