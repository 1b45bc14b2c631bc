"""A training of a second on drawn shapes: its config, the command on it, and what it leaves."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ssdnorm.build import build_dataset, build_model, build_training
from ssdnorm.cli import main
from ssdnorm.config import Config
from ssdnorm.config_file import merge_config
from ssdnorm.engine.module import TrainingModule

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
    return merge_config(("test", tiny(**changes)))


def tiny_module(config: Config) -> TrainingModule:
    """The training module of a config for shapes, with their five classes."""
    train_set, test_set = build_dataset(config, "train"), build_dataset(config, "test")
    return build_training(config, build_model(config, 6), train_set=train_set, test_set=test_set)


def train_words(*words: object, pictures: bool = False) -> int:
    """Run ``ssdnorm train`` on these words; without pictures of the result, which take longer than the training."""
    with nullcontext() if pictures else patch("ssdnorm.cli.train_pictures.draw_result"):
        return main(["train", *map(str, words)])


def _written(output: Path, changes: dict[str, Any]) -> Path:
    config = output.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(tiny(**changes)))
    return config


def train(
    output: Path, *words: str, config: Path | None = None, pictures: bool = False, **changes: dict[str, Any]
) -> int:
    """The same; without a config file it is TINY with changes, written beside the run folder."""
    config = config or _written(output, changes)
    return train_words("--config", config, "--output", output, *words, pictures=pictures)


def stopped_at(step: int, output: Path, *words: str, **changes: dict[str, Any]) -> None:
    """Run a training that is interrupted in its batch ``step``, from 0."""
    training_step = TrainingModule.training_step

    def stop(self: TrainingModule, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == step:
            raise KeyboardInterrupt
        return training_step(self, batch, batch_idx)

    with patch.object(TrainingModule, "training_step", stop):
        assert train(output, *words, **changes) == 130
    assert not (output / "result.json").exists()


def script(output: Path, *words: str, **changes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run scripts/train.py on TINY with changes in a process of its own."""
    config = _written(output, changes)
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--config", str(config), "--output", str(output)]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=600)


def weights(output: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(output / "checkpoints" / f"{name}.safetensors")


def same_weights(run: Path, other: Path, name: str = "model", other_name: str = "model") -> bool:
    """Whether the weights of two runs are equal in every bit."""
    mine, theirs = weights(run, name), weights(other, other_name)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def result_of(output: Path) -> dict[str, Any]:
    """The content of result.json."""
    return json.loads((output / "result.json").read_text())


def rows(output: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    return list(csv.DictReader((output / "metrics.csv").open()))
