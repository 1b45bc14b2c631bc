"""Pictures of a run: its first batches, its curves, and test images with truth and detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.engine.evaluation import EvaluationResult
from ssdnorm.files import shortened, whole_rows
from ssdnorm.metrics.worst import find_outcomes
from ssdnorm.plots.boxes import boxes_of_image, contact_sheet, draw_side_by_side, save_picture
from ssdnorm.plots.style import save
from ssdnorm.plots.training import draw_batch, plot_training
from ssdnorm.structures import Batch

SHEET = "sheet.png"
_PICTURES = 12
_DRAWN_SCORE = 0.4


class FirstBatch(pl.Callback):
    """Draw the first batch of a run that starts anew, as the network sees it."""

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = path
        self.class_names = class_names

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and trainer.global_step == batch_idx == 0:
            save_picture(draw_batch(batch, self.class_names), self.path)


def draw_result(dataset: DetectionDataset, result: EvaluationResult, output: Path) -> None:
    """Draw the run's curves and, spread over the test set, images with the truth beside the detections."""
    folder = output / "pictures"
    save(plot_training(whole_rows(output / "metrics.csv")), folder / "curves.png")
    assert result.coco is not None
    outcomes = find_outcomes(result.coco, min_score=_DRAWN_SCORE)
    rows = {image_id: row for row, image_id in enumerate(outcomes.truth.image_ids.tolist())}  # in order of the ids
    pictures = []
    for place in np.unique(np.linspace(0, len(dataset) - 1, _PICTURES).round().astype(int)).tolist():
        name = dataset.image_name(place)
        boxes = boxes_of_image(outcomes, rows[dataset.image_id(place)])
        picture = draw_side_by_side(dataset.load_image(place), *boxes, title=name)
        save_picture(picture, folder / f"{place:03d}_{shortened(Path(name).stem, 200)}.png")
        pictures.append(picture)
    save_picture(contact_sheet(pictures, columns=2, side=900), folder / SHEET)
