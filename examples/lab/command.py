"""Demonstrate what normalisation does: python scripts/lab.py deep-mlp --output runs/lab

Measures, draws figures, and writes the numbers behind them as JSON. Without a name it lists the demonstrations;
docs/lab explains each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from examples.lab.catalogue import DEMONSTRATIONS, find_demonstration
from examples.lab.demonstration import Demonstration
from ssdnorm.cli.refuse import no_more_words
from ssdnorm.data.images import EncodedImage
from ssdnorm.engine.run import write_text
from ssdnorm.resize import resize_image

HELP = "demonstrate what normalisation does"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("name", nargs="?", help=f"one of: {', '.join(DEMONSTRATIONS)}")
    parser.add_argument("--list", action="store_true", help="name the demonstrations and what they ask")
    parser.add_argument("--output", type=Path, default=Path("runs/lab"), help="folder for figures and JSON (runs/lab)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches (0)")
    parser.add_argument("--weights", type=Path, help="l2norm: ImageNet VGG16, e.g. vgg16_conv_fp16.npz")
    parser.add_argument("--images", type=Path, nargs="+", help="l2norm: photographs")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Measure, draw, write."""
    no_more_words(rest)
    if arguments.list or arguments.name is None:
        width = max(map(len, DEMONSTRATIONS))
        print("\n".join(f"{name:{width}}  {each.question}" for name, each in DEMONSTRATIONS.items()))
        return
    demonstration = find_demonstration(arguments.name)
    if arguments.seed < 0:
        raise ValueError(f"--seed: must be 0 or more; got {arguments.seed}")
    inputs = _photographs(arguments, demonstration)
    progress = partial(tqdm, desc=arguments.name, disable=None, leave=False)
    numbers = demonstration.measure(seed=arguments.seed, progress=progress, **inputs)
    arguments.output.mkdir(parents=True, exist_ok=True)
    paths = []
    for figure_name, figure in demonstration.draw(numbers).items():
        paths.append(arguments.output / f"{arguments.name}_{figure_name}.png")
        figure.savefig(paths[-1], dpi=120, pil_kwargs={"optimize": True})
    paths.append(arguments.output / f"{arguments.name}.json")
    write_text(paths[-1], json.dumps(numbers))
    print("\n".join(map(str, paths)))


def _photographs(arguments: argparse.Namespace, demonstration: Demonstration) -> dict[str, Any]:
    if not demonstration.on_photographs:
        for option in ("weights", "images"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option}: {arguments.name} takes none; only l2norm does")
        return {}
    if arguments.weights is None or arguments.images is None:
        raise ValueError(
            f"{arguments.name}: needs ImageNet weights and photographs: --weights vgg16_conv_fp16.npz --images *.jpg"
        )
    return {"images": torch.stack([_photograph(path) for path in arguments.images]), "weights": arguments.weights}


def _photograph(path: Path) -> Tensor:
    return resize_image(torch.from_numpy(EncodedImage.read(path).decode()).permute(2, 0, 1), 300, 300)
