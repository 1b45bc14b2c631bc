"""Run a demonstration: measure, draw, write the numbers as JSON, and put them into its page."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ssdnorm.messages import did_you_mean

NAMES = ("deep-mlp", "moving-average", "train-eval-gap", "batch-size", "dropout", "l2norm")
_BEGIN, _END = "<!-- numbers: begin -->", "<!-- numbers: end -->"

Numbers = dict[str, Any]
Progress = Callable[[list[Any]], Iterable[Any]]  # hands on what it is given, and may show how far it is


@dataclass(frozen=True)
class Demonstration:
    """One demonstration of normalisation.

    Attributes:
        name: as the command takes it.
        question: what it asks, in a line.
        measure: ``measure(seed=…, progress=…)`` returns the numbers; :func:`for_json` makes them JSON.
        draw: those numbers → figures by name; measures nothing.
        tables: those numbers → Markdown tables for the page.
        on_photographs: whether ``measure`` also takes ``images``, paths, and ``weights``, a path.
    """

    name: str
    question: str | None
    measure: Callable[..., Numbers]
    draw: Callable[[Numbers], dict[str, Figure]]
    tables: Callable[[Numbers], str]
    on_photographs: bool = False


def main(words: Sequence[str]) -> int:
    """Run the demonstration that the first word names; without one, list them all."""
    if not words or words[0] in ("--list", "--help", "-h"):
        print("\n".join(f"{name:15} {find(name).question}" for name in NAMES))
        return 0
    if words[0] not in NAMES:
        allowed = f"choose one of: {', '.join(NAMES)}.{did_you_mean(words[0], NAMES)}"
        print(f"error: unknown demonstration {words[0]!r}; {allowed}", file=sys.stderr)
        return 2
    return run(find(words[0]), words[1:])


def find(name: str) -> Demonstration:
    """The demonstration of that name."""
    demonstration: Demonstration = import_module(name.replace("-", "_")).DEMONSTRATION
    return demonstration


def run(demonstration: Demonstration, words: Sequence[str] | None = None) -> int:
    """Measure, draw and write, or render a page; bad input ends in one line on standard error and code 2."""
    parser = argparse.ArgumentParser(prog=demonstration.name, description=demonstration.question, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("runs/lab"), help="folder for figures and JSON (runs/lab)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and batches (0)")
    parser.add_argument("--page", type=Path, help="measure nothing: put the numbers of its figures/*.json into it")
    if demonstration.on_photographs:
        parser.add_argument("--weights", type=Path, help="ImageNet VGG16, e.g. vgg16_conv_fp16.npz")
        parser.add_argument("--images", type=Path, nargs="+", help="photographs")
    arguments = parser.parse_args(words)
    try:
        if arguments.page is not None:
            arguments.page.write_text(rendered(demonstration, arguments.page), encoding="utf-8")
        else:
            _measure(demonstration, arguments)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def rendered(demonstration: Demonstration, page: Path) -> str:
    """The text of a page with the tables of the JSON file beside its figures between the page's marks.

    Raises:
        ValueError: if the page has no such marks.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"{page}: expected the lines {_BEGIN} and {_END}, between which the tables go")
    numbers = json.loads((page.parent / "figures" / f"{demonstration.name}.json").read_text(encoding="utf-8"))
    return f"{before}{begin}\n\n{demonstration.tables(numbers)}\n\n{end}{after}"


def _measure(demonstration: Demonstration, arguments: argparse.Namespace) -> None:
    if arguments.seed < 0:
        raise ValueError(f"--seed: must be 0 or more; got {arguments.seed}")
    inputs = {}
    if demonstration.on_photographs:
        inputs = {"images": arguments.images, "weights": arguments.weights}
        if None in inputs.values():
            raise ValueError("needs ImageNet weights and photographs: --weights vgg16_conv_fp16.npz --images *.jpg")
    progress = partial(tqdm, desc=demonstration.name, disable=None, leave=False)
    numbers = for_json(demonstration.measure(seed=arguments.seed, progress=progress, **inputs))
    arguments.output.mkdir(parents=True, exist_ok=True)
    paths = [arguments.output / f"{demonstration.name}.json"]
    paths[0].write_text(json.dumps(numbers), encoding="utf-8")
    for name, figure in demonstration.draw(numbers).items():
        paths.append(arguments.output / f"{demonstration.name}_{name}.png")
        figure.savefig(paths[-1], dpi=120, pil_kwargs={"optimize": True})
    print("\n".join(map(str, paths)))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, digits: int = 3) -> str:
    """Rows as a Markdown table: floats with so many decimals, – for None, anything else as text.

    Example:
        >>> print(markdown_table(["p", "cost"], [["0.5", 0.12345], ["0.7", None]]))
        | p | cost |
        |---|---|
        | 0.5 | 0.123 |
        | 0.7 | – |
    """

    def cell(value: Any) -> str:
        return f"{value:.{digits}f}" if isinstance(value, float) else "–" if value is None else str(value)

    lines = [list(header), *([cell(value) for value in row] for row in rows)]
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], "|---" * len(header) + "|", *text[1:]])


def for_json(value: Any) -> Any:
    """Numbers as JSON holds them: tensors become lists, floats keep six digits, and what is not finite becomes None.

    Example:
        >>> for_json({"cost": torch.tensor([1 / 3, float("nan")])})
        {'cost': [0.333333, None]}
    """
    if isinstance(value, dict):
        return {str(name): for_json(item) for name, item in value.items()}
    if isinstance(value, Tensor):
        return for_json(value.tolist())
    if isinstance(value, list | tuple):
        return [for_json(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def generator(seed: int) -> torch.Generator:
    """A random generator of its own, so that a demonstration depends on its seed alone."""
    return torch.Generator().manual_seed(seed)
