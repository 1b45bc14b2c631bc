"""Where a comparison comes from: command line, installed packages, changes to the checkout, data."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.provenance import git_commit, git_diff


def origin_of(datasets: Mapping[str, DetectionDataset]) -> dict[str, Any]:
    """The report's own origin; runs record theirs in ``result.json``."""
    commit, named = git_commit(), [each for each in distributions() if each.name]  # None without a METADATA file
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "report_commit": commit,
        "data": {name: fingerprint(dataset) for name, dataset in datasets.items()},
        "installed": {each.name: each.version for each in sorted(named, key=lambda d: d.name.lower())},
        "diff": git_diff() if commit and commit.endswith("-dirty") else "",
    }


def fingerprint(dataset: DetectionDataset) -> dict[str, Any]:
    """What tells a data set from another: numbers, SHA-256 of the images' names and sizes and of the annotations."""
    truth, files, annotations = dataset.ground_truth, hashlib.sha256(), hashlib.sha256()
    num_bytes = 0
    for i in range(len(dataset)):
        size = Path(path).stat().st_size if (path := dataset.image_path(i)) else 0
        num_bytes += size
        files.update(f"{dataset.image_name(i)}\t{size}\n".encode())
    annotations.update("\n".join(truth.class_names).encode())
    for column in (truth.sizes, truth.starts, truth.boxes, truth.labels, truth.iscrowd, truth.difficult):
        annotations.update(np.ascontiguousarray(column).tobytes())
    return {
        "images": len(dataset),
        "objects": truth.num_objects,
        "bytes": num_bytes,
        "files": files.hexdigest()[:16],
        "annotations": annotations.hexdigest()[:16],
    }
