"""Write a config for your data.

examples:
  ssdnorm init data/mine --output mine.yaml
  ssdnorm init data/mine --output mine.yaml --image-size 416

Finds format and splits, makes the splits that are missing (class by class, with a seed), fits default boxes to the
objects, chooses the image size by how well they cover, and sets steps from the number of pictures. Every key of the
config can be set, e.g. --training.max_steps 500.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ssdnorm.cli.checks import output_file
from ssdnorm.messages import quiet_loggers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; config keys come on top."""
    parser.add_argument("data", type=Path, help="folder of the data; or data.yaml, or one COCO instances file")
    parser.add_argument("--output", type=output_file, help="the config (DATA's name with .yaml)")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="side, or height and width (160, 224 or 300: the smallest that suits the objects)",
    )
    parser.add_argument(
        "--weights", help="of VGG16, a file or torchvision's name; default: a narrow network from scratch"
    )
    parser.add_argument("--seed", type=int, default=0, help="of splits that are made, and of the training (0)")


@quiet_loggers(logging.ERROR, "ssdnorm.data")  # ssdnorm inspect tells it
def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Choose, check, write, and say what comes next."""
    import shlex

    from ssdnorm.build import check_model
    from ssdnorm.config_file import parse_overrides
    from ssdnorm.data.formats import find_data
    from ssdnorm.own_data.recipe import choose_recipe

    sides = arguments.image_size or [None]
    if len(sides) > 2:
        raise ValueError(f"--image-size: expected a side, or height and width; got {' '.join(map(str, sides))}")
    path: Path = arguments.output or Path(f"{arguments.data.resolve().stem}.yaml")
    if path.exists():
        raise ValueError(f"--output: {path} exists already; choose another name")
    recipe = choose_recipe(
        find_data(arguments.data),
        path,
        image_size=sides[0] if len(sides) == 1 else sides,
        weights=arguments.weights,
        seed=arguments.seed,
        overrides=parse_overrides(rest),
    )
    for lists in map(Path, recipe.splits):
        if lists.exists():
            raise ValueError(f"--output: {lists}, a list of images, exists already; choose another name")
    check_model(recipe.config)
    recipe.write(path)
    folder = Path("runs") / path.stem
    trained = ["--checkpoint", folder / "checkpoints" / "model.safetensors", "--threshold", "best"]
    print("\n".join([f"written: {path}", *(f"  {note}" for note in recipe.notes), "", "next:"]))
    for command in (
        ["ssdnorm", "train", "--config", path, "--output", folder],
        ["ssdnorm", "evaluate", "--run", folder],
        ["ssdnorm", "predict", *trained, "--output", folder / "predictions", "PICTURES"],
    ):
        print("  " + shlex.join(map(str, command)))
