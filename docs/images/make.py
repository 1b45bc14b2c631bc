"""Make the README's pictures from a comparison that is published.

The intervals come from a figure of docs/results, in a light and a dark form. The panels show one test image with the
detections of three of its runs:

    ssdnorm compare --config compare_l2_norm --output runs/l2_norm --seeds 0-2 --jobs 2
    python docs/images/make.py --place 3 --runs none=runs/l2_norm/runs/none/lr0.008_seed0 \\
        l2_norm=runs/l2_norm/runs/l2_norm/lr0.008_seed0 batch_norm=runs/l2_norm/runs/batch_norm/lr0.04_seed0
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssdnorm.build import build_dataset
from ssdnorm.config_file import read_config
from ssdnorm.plots.boxes import draw_boxes

HERE = Path(__file__).parent
FIGURE = HERE.parent / "results" / "compare_l2_norm" / "differences.svg"
INK = {"light": "#1c2128", "dark": "#e8eaed"}
SCORE = 0.4
SIDE, GAP, LINE = 300, 12, 30


def make_intervals() -> None:
    """Fix the colours of a figure that follows its reader's mode."""
    svg = FIGURE.read_text(encoding="utf-8")
    (dark,) = re.findall(r"@media \(prefers-color-scheme: dark\) \{ .plot \{(.*?)\} \}", svg)
    light_svg = re.sub(r"\n?@media \(prefers-color-scheme: dark\) \{ .plot \{.*?\} \}", "", svg)
    dark_svg = light_svg.replace("</style>", f" .plot {{{dark}}}</style>")
    (HERE / "intervals-light.svg").write_text(light_svg, encoding="utf-8")
    (HERE / "intervals-dark.svg").write_text(dark_svg, encoding="utf-8")


def make_panels(runs: dict[str, Path], place: int) -> None:
    """Draw the detections of every run on the same test image, side by side."""
    font = ImageFont.load_default(16)
    panels = []
    for name, run in runs.items():
        dataset = build_dataset(read_config(run / "config.yaml"), "test")
        found = json.loads((run / "detections.json").read_text(encoding="utf-8"))
        found = [d for d in found if d["image_id"] == dataset.image_id(place) and d["score"] > SCORE]
        image = Image.fromarray(dataset.load_image(place))
        scale = SIDE / image.width
        boxes = [(scale * x, scale * y, scale * (x + w), scale * (y + h)) for x, y, w, h in (d["bbox"] for d in found)]
        labels = [1 + dataset.category_ids.index(d["category_id"]) for d in found]
        captions = [f"{dataset.class_names[c - 1]} {d['score']:.2f}" for c, d in zip(labels, found, strict=True)]
        enlarged = image.resize((SIDE, round(scale * image.height)), Image.Resampling.BICUBIC)
        points = 100 * json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"]["AP"]
        panels.append((f"{name}: AP {points:.0f}", draw_boxes(np.asarray(enlarged), boxes, captions, labels)))
    height = LINE + max(picture.height for _, picture in panels)
    for mode, ink in INK.items():
        sheet = Image.new("RGBA", (len(panels) * (SIDE + GAP) - GAP, height), (0, 0, 0, 0))
        pen = ImageDraw.Draw(sheet)
        for i, (name, picture) in enumerate(panels):
            left = i * (SIDE + GAP)
            pen.text((left, LINE // 2), name, fill=ink, font=font, anchor="lm")
            sheet.paste(picture, (left, LINE))
        sheet.quantize(128).save(HERE / f"panels-{mode}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="NAME=FOLDER", help="leave out for the intervals alone"
    )
    parser.add_argument("--place", type=int, default=0, help="of the test image (0)")
    arguments = parser.parse_args()
    make_intervals()
    if arguments.runs:
        make_panels(
            {name: Path(folder) for name, folder in (run.split("=", 1) for run in arguments.runs)}, arguments.place
        )


if __name__ == "__main__":
    main()
