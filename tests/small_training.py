"""A training of a second on drawn shapes: its config, the command on it, and what it leaves."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor

from ssdnorm.cli import main
from ssdnorm.config import Config
from ssdnorm.config_file import config_from_mapping

ROOT = Path(__file__).parents[1]
SHAPES = {
    "train": {"format": "shapes", "num_images": 10, "seed": 1},
    "test": {"format": "shapes", "num_images": 3, "seed": 2},
}
TINY: dict[str, dict[str, Any]] = {
    "norm": {"backbone": "none", "extras": "none", "taps": {"conv4_3": "l2_norm"}},
    "model": {"width": 0.02, "dropout": 0.0},
    "data": SHAPES,
    "optimizer": {"lr": 0.01, "warmup_steps": 2},
    "training": {"max_steps": 2, "batch_size": 3, "checkpoint_every": 2},
    "runtime": {"log_every": 1, "accelerator": "cpu", "devices": 1},
}


def tiny(**changes: dict[str, Any]) -> dict[str, Any]:
    """TINY with keys of its sections changed, or sections added."""
    return changes | {section: {**values, **changes.get(section, {})} for section, values in TINY.items()}


def tiny_config(**changes: dict[str, Any]) -> Config:
    return config_from_mapping(tiny(**changes), where="test")


def train(output: Path, *words: str, config: Path | None = None, **changes: dict[str, Any]) -> int:
    """Run ``ssdnorm train``; without a config file it is TINY with changes, written beside the run folder."""
    if config is None:
        config = output.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(tiny(**changes)))
    return main(["train", "--config", str(config), "--output", str(output), *words])


def script(output: Path, *words: str, **changes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run scripts/train.py on TINY with changes in a process of its own."""
    config = output.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(tiny(**changes)))
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--config", str(config), "--output", str(output)]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=600)


def weights(output: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(output / "checkpoints" / f"{name}.safetensors")


def rows(output: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    return list(csv.DictReader((output / "metrics.csv").open()))
