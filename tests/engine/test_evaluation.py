"""The evaluator: detections by place in the data set to the numbers of the metrics."""

import numpy as np
import pytest
import torch

from ssdnorm.coco_format import detection_table, ground_truth_table
from ssdnorm.data import DetectionDataset, EvalTransform, make_eval_loader
from ssdnorm.engine.evaluation import EvaluationOptions, evaluate_detections, evaluate_tables, predict_dataset
from ssdnorm.structures import Detections
from ssdnorm.tables import DetectionTable

TRUTH = {
    "images": [{"id": 30, "file_name": "x.jpg"}, {"id": 7, "file_name": "y.jpg"}, {"id": 8, "file_name": "z.jpg"}],
    "categories": [{"id": 90, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"image_id": 30, "category_id": 90, "bbox": [10, 10, 40, 40]},
        {"image_id": 7, "category_id": 2, "bbox": [20, 20, 40, 60]},
        {"image_id": 7, "category_id": 90, "bbox": [60, 0, 40, 50], "difficult": 1},
    ],
}


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows], dtype=torch.float32)
    return Detections(boxes=boxes, scores=scores, labels=torch.tensor([label for *_, label in rows], dtype=torch.int64))


FOUND = {
    2: detections(),
    1: detections(([20, 20, 60, 70], 0.75, 2), ([60, 0, 100, 50], 0.5, 1)),
    0: detections(([10, 10, 50, 50], 0.5, 1), ([0, 0, 9, 9], 0.25, 2)),
}


def test_places_and_labels_become_the_ids_of_the_data_set():
    result = evaluate_detections(ground_truth_table(TRUTH), FOUND)
    assert result.detections == [
        {"image_id": 30, "category_id": 90, "bbox": [10.0, 10.0, 40.0, 40.0], "score": 0.5},
        {"image_id": 30, "category_id": 2, "bbox": [0.0, 0.0, 9.0, 9.0], "score": 0.25},
        {"image_id": 7, "category_id": 2, "bbox": [20.0, 20.0, 40.0, 50.0], "score": 0.75},
        {"image_id": 7, "category_id": 90, "bbox": [60.0, 0.0, 40.0, 50.0], "score": 0.5},
    ]


def test_an_image_without_an_entry_is_refused_though_one_without_detections_counts():
    with pytest.raises(ValueError, match="evaluation: detections for 2 of the 3 images of the data set"):
        evaluate_detections(ground_truth_table(TRUTH), {0: FOUND[0], 1: FOUND[1]})


def test_one_table_holds_both_interpolations():
    options = EvaluationOptions(metrics=("voc07", "voc"), voc_iou=0.9)
    result = evaluate_tables(ground_truth_table(TRUTH), DetectionTable.from_images(FOUND), options)
    assert result.coco is None
    assert result.table.splitlines() == [
        "VOC metric (IoU 0.9, difficult objects ignored)",
        "  11-point mAP 0.5000, all-point mAP 0.5000",
        "",
        "  class  objects  detections   11-point  all-point",
        "  cat          1           2     0.0000     0.0000",
        "  dog          1           1     1.0000     1.0000",
    ]


def test_a_data_set_of_nothing_has_numbers():
    truth = ground_truth_table({"images": [], "categories": [], "annotations": []})
    result = evaluate_tables(truth, detection_table([], truth))
    assert set(result.metrics.values()) == {-1.0}


def test_metrics_must_be_asked_for():
    with pytest.raises(ValueError, match="metric: none is asked for"):
        EvaluationOptions(metrics=())


class Mean(torch.nn.Module):
    """A network whose output is the mean colour; its own weight says which precision it ran in."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Linear(3, 3, bias=False)
        torch.nn.init.eye_(self.scale.weight)
        self.kernel = torch.nn.Conv2d(2, 1, 2)

    def forward(self, images):
        assert not self.training
        for tensor in (images, self.kernel.weight):
            assert tensor.is_contiguous(memory_format=torch.channels_last)
        return self.scale(images.float().mean(dim=(2, 3)))


class OneBox(torch.nn.Module):
    """A box as large as the image, with the mean of the colours as its score; none in narrow images."""

    def forward(self, output, sizes):
        self.dtype = output.dtype
        images = zip(output.float().mean(dim=1) / 255, sizes.tolist(), strict=True)
        return [detections(*[([0, 0, w, h], float(score), 1)] * (w > 40)) for score, (h, w) in images]


class Noise(DetectionDataset):
    """Pictures of these heights and widths, without objects."""

    def __init__(self, *sizes):
        images = [{"id": i, "height": height, "width": width} for i, (height, width) in enumerate(sizes)]
        super().__init__(ground_truth_table({**TRUTH, "images": images, "annotations": []}), None)

    def open_image(self, index):
        return np.random.default_rng(index).integers(0, 256, (*self.image_size(index), 3), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_model_runs_over_every_image_in_the_precision_asked_for(precision, caplog):
    data = Noise((30, 52), (44, 31), (50, 40), (37, 41), (33, 60))
    loaders = {"calls": []}

    def make_loader(**places):
        loaders["calls"].append(places)
        return make_eval_loader(data, EvalTransform(16), batch_size=2, **places)

    post_process = OneBox()
    found = predict_dataset(Mean(), post_process, make_loader, precision=precision, accelerator="cpu", devices=1)
    assert loaders["calls"] == [{"rank": 0, "world_size": 1}]
    assert sorted(found) == list(range(5))
    assert post_process.dtype == (torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    assert ("16-mixed needs a GPU" in caplog.text) == (precision == "16-mixed")
    sizes = [data.image_size(i) for i in range(5)]
    assert [found[i]["boxes"].tolist() for i in range(5)] == [[[0, 0, w, h]] * (w > 40) for h, w in sizes]
    for i in range(5):
        picture = EvalTransform(16)(data.load_image(i), *data.training_boxes(i))[0]
        expected = [picture.float().mean().item() / 255] * len(found[i]["scores"])
        assert found[i]["scores"].tolist() == pytest.approx(expected, abs=1e-2 if precision == "bf16-mixed" else 1e-6)


@pytest.mark.parametrize("runtime", [{"accelerator": "abacus"}, {"accelerator": "cpu", "devices": -2}])
def test_devices_that_are_not_here_are_refused(runtime):
    with pytest.raises(ValueError, match=r"runtime: accelerator '(abacus|cpu)', devices "):
        predict_dataset(Mean(), OneBox(), lambda **_: [], **runtime)


def test_a_machine_with_slurm_gets_no_hint_to_use_srun(tmp_path, monkeypatch, recwarn):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    predict_dataset(Mean(), OneBox(), lambda **_: [], accelerator="cpu", devices=1)
    assert not [warning for warning in recwarn if "srun" in str(warning.message)]
