"""The page and the terminal summary of ``ssdnorm inspect``."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from ssdnorm.boxes.default_boxes import DefaultBoxSpec
from ssdnorm.config import Config
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.transforms import TrainTransform
from ssdnorm.files import write_text
from ssdnorm.own_data.duplicates import find_duplicates
from ssdnorm.own_data.survey import (
    Objects,
    Table,
    class_table,
    coverage_tables,
    default_box_keys,
    percent,
    picture_table,
    tap_table,
)
from ssdnorm.plots.boxes import contact_sheet, draw_boxes
from ssdnorm.plots.colors import COLORS, css_variables
from ssdnorm.plots.style import logarithmic, panels, styled
from ssdnorm.plots.svg import figure_to_svg
from ssdnorm.resize import height_and_width

_PICTURES = 16
_TERMINAL_ROWS = 12  # of a table


@dataclass(frozen=True)
class Chapter:
    """One part of the page."""

    title: str
    words: str
    tables: list[Table] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    picture: str = ""  # JPEG in base64
    code: str = ""


def make_chapters(
    datasets: Mapping[str, DetectionDataset],
    config: Config,
    network: tuple[DefaultBoxSpec, Sequence[str]],
    *,
    suggest: bool,
) -> list[Chapter]:
    """Look at everything; the chapters of the page in order."""
    spec, taps = network
    train = datasets["train"]
    objects = Objects.of(train)
    summaries = [f"{name}: {dataset.summary}" for name, dataset in datasets.items() if dataset.summary]
    problems = [f"{name}: {message}" for name, dataset in datasets.items() for message in dataset.problems]
    words = "What loading says, counted and one by one. Bad annotations are left out of training and evaluation."
    pairs = find_duplicates(datasets) if len(datasets) > 1 else []
    twice = [f"{one} {first} = {other} {second}" for one, first, other, second in pairs] or ["none"]
    chapters = [
        Chapter("Pictures and objects", "By split; median and most objects per picture.", [picture_table(datasets)]),
        Chapter("Classes", "Objects by class and split.", [class_table(datasets)]),
        Chapter("Annotations", words, lines=[*summaries, *problems] or ["nothing is wrong with them"]),
        Chapter("Same pictures in two splits", "Pictures that look the same make a result too good.", lines=twice),
    ]
    if len(objects.labels) == 0:
        return chapters
    chapters.append(_shapes(objects, spec))
    specs = {"default boxes": spec}
    if suggest:
        specs["suggested"] = objects.suggest(spec)
    forced = int((~objects.covered(spec)).sum())
    words = (
        "Share of training objects with a default box at IoU ≥ .5, pictures whole as in evaluation. The other "
        f"{forced} of {len(objects.labels)} are learnt from one forced match each. "
        + ("" if suggest else "--suggest proposes sizes and ratios.")
    )
    tables = [*coverage_tables(objects, specs, train.class_names), tap_table(objects, spec, taps)]
    chapters.append(Chapter("Coverage of the default boxes", words, tables))
    if suggest:
        new = specs["suggested"]
        keys = {"model": {"default_boxes": default_box_keys(new)}}
        code = yaml.safe_dump(keys, default_flow_style=None, width=110, sort_keys=False)
        gain = f"{percent(objects.covered(spec))} → {percent(objects.covered(new))}"
        words = f"Coverage {gain}; every class counts the same."
        chapters.append(Chapter("Suggested default boxes", words, [tap_table(objects, new, taps)], code=code))
    chapters.append(_training_pictures(train, config, spec))
    return chapters


def write_page(path: Path, title: str, facts: Sequence[str], chapters: Sequence[Chapter]) -> None:
    """Write the page as one HTML file that opens offline."""
    environment = Environment(
        loader=PackageLoader("ssdnorm", "own_data"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    template = environment.get_template("page.html.j2")
    write_text(path, template.render(title=title, facts=facts, chapters=chapters, palette=css_variables()))


def terminal_text(facts: Sequence[str], chapters: Sequence[Chapter]) -> str:
    """The page without its pictures; long tables and lists are cut."""
    parts = ["\n".join(facts)]
    for chapter in chapters:
        lines = [f"\n{chapter.title}", *map(_aligned, chapter.tables)]
        lines += [f"  {line}" for line in chapter.lines[:5]]
        if len(chapter.lines) > 5:
            lines.append(f"  … and {len(chapter.lines) - 5} more, on the page")
        if chapter.code:
            lines.append(chapter.code)
        if len(lines) > 1:
            parts.append("\n".join(lines))
    return "\n".join(parts)


def _aligned(table: Table) -> str:
    rows = [table.header, *(tuple(map(str, row)) for row in table.rows[:_TERMINAL_ROWS])]
    widths = [max(len(row[k]) for row in rows) for k in range(len(table.header))]
    lines = ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    if len(table.rows) > _TERMINAL_ROWS:
        lines.append(f"  … and {len(table.rows) - _TERMINAL_ROWS} more rows, on the page")
    return "\n".join(line.rstrip() for line in lines)


@styled
def _shapes(objects: Objects, spec: DefaultBoxSpec) -> Chapter:
    height, width = height_and_width(spec.image_size)
    sizes = objects.sizes_px(spec).numpy()
    sides = ((objects.boxes[:, 2:] - objects.boxes[:, :2]) * torch.tensor([width, height])).numpy()
    ratios = sides[:, 0] / np.maximum(sides[:, 1], 1e-6)
    quarters = " / ".join(f"{value:.0f}" for value in np.percentile(sizes, [0, 25, 50, 75, 100]))
    flat = " / ".join(f"{value:.2f}" for value in np.percentile(ratios, [5, 50, 95]))
    figure, axes = panels(1, 2, width=8, height=2.6)
    left, right = axes.flat
    left.hist(sizes, bins=np.geomspace(max(2, sizes.min()), max(4, sizes.max() + 1), 30), color=COLORS["blue"])
    for size in spec.min_sizes:
        left.axvline(size, color=COLORS["orange"], linewidth=1)
    left.set(title="Size of objects, and of default boxes", xlabel="pixels of the input", ylabel="objects")
    right.hist(np.clip(ratios, 0.1, 10), bins=np.geomspace(0.1, 10, 40), color=COLORS["blue"])
    right.set(title="Width over height", xlabel="in the input", ylabel="objects")
    table = Table(
        ("", "in the network's input"),
        [("sizes: least, quartiles, largest, px", quarters), ("width / height: 5%, median, 95%", flat)],
    )
    logarithmic(left, "x")
    logarithmic(right, "x")
    svg = figure_to_svg(figure, "shapes", "Histograms of sizes and aspect ratios of the objects")
    return Chapter("Sizes and shapes", f"After the resize to {width} × {height} pixels.", [table], [svg])


def _training_pictures(train: DetectionDataset, config: Config, spec: DefaultBoxSpec) -> Chapter:
    transform = TrainTransform(spec.image_size, **vars(config.augment))
    height, width = height_and_width(spec.image_size)
    pictures = []
    for place in np.linspace(0, len(train) - 1, min(_PICTURES, len(train))).round().astype(int).tolist():
        boxes_px, labels = train.training_boxes(place)
        try:
            pixels, boxes, kept = transform(train.open_image(place), boxes_px, labels, rng=np.random.default_rng(place))
        except (OSError, ValueError):
            continue  # told under Annotations where it was noticed
        captions = [train.class_names[label - 1] for label in kept.tolist()]
        corners = boxes.numpy() * [width, height, width, height]
        pictures.append(draw_boxes(pixels.permute(1, 2, 0).contiguous().numpy(), corners, captions, kept.tolist()))
    buffer = io.BytesIO()
    contact_sheet(pictures).save(buffer, format="JPEG", quality=85)
    words = f"As the network sees them in training, augmented and resized to {width} × {height}, with their boxes."
    return Chapter("Training pictures", words, picture=base64.b64encode(buffer.getvalue()).decode())
