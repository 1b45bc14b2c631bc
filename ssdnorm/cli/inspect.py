"""Look at your data before training.

examples:
  ssdnorm inspect data/mine
  ssdnorm inspect data/mine --suggest --model.name ssd_vgg16 --model.image_size 416

Finds the format (VOC, COCO, YOLO) and the splits, counts classes and sizes, tells what is wrong with the annotations
and which pictures are in two splits, shows augmented training pictures, and measures how the default boxes cover the
objects.
Every key of the config can be set, e.g. --model.name ssd_vgg16 --model.image_size 416.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssdnorm.cli.checks import given_path, output_file
from ssdnorm.messages import quiet_loggers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; config keys come on top."""
    parser.add_argument("data", type=Path, help="folder of the data; or data.yaml, or one COCO instances file")
    parser.add_argument("--config", type=given_path, help="network and augmentation to look with; default: SSD300's")
    parser.add_argument("--suggest", action="store_true", help="propose default boxes that cover the objects better")
    parser.add_argument("--output", type=output_file, default=Path("inspect.html"), help="the page (inspect.html)")


@quiet_loggers(logging.ERROR, "ssdnorm.data")  # all that it says is on the page
def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Read, look, print, write the page."""
    from ssdnorm.config_file import config_layer, parse_overrides
    from ssdnorm.data.formats import find_data
    from ssdnorm.own_data.page import make_chapters, terminal_text, write_page
    from ssdnorm.own_data.recipe import config_for, network_of, read_datasets

    found = find_data(arguments.data)
    layers = [("command line", parse_overrides(rest))]
    if arguments.config is not None:
        where, content = config_layer(arguments.config)
        if isinstance(content, Mapping):  # the data are those of the first argument
            content = {key: value for key, value in content.items() if key != "data"}
        layers.insert(0, (where, content))
    config = config_for(found, *layers)
    datasets = read_datasets(config)
    network = network_of(config)
    chapters = make_chapters(datasets, config, network, suggest=arguments.suggest)
    spec = network[0]
    num_boxes = f"{spec.num_boxes} default boxes on {len(network[1])} taps"
    facts = [
        f"{arguments.data}: {found.format.upper()} format, splits: {', '.join(found.splits)}",
        f"network: {config.model.name}, input {spec.image_size}, {num_boxes}",
    ]
    write_page(arguments.output, f"Data: {arguments.data}", facts, chapters)
    print(terminal_text(facts, chapters))
    print(f"\npage: {arguments.output}")
