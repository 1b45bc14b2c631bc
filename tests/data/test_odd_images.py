"""Images and boxes that nobody would choose, through the whole data side."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ssdnorm.data import (
    CachedDataset,
    CocoDataset,
    EncodedImage,
    EvalTransform,
    ShapesDataset,
    TrainTransform,
    make_train_loader,
)
from ssdnorm.data.crops import MIN_SIDE

SIZES = [(1, 1), (1, 900), (900, 1), (2, 3), (9, 8), (4, 1500), (700, 640)]


def jpeg(height, width, mode):
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(file, "JPEG")
    return EncodedImage(file.getvalue(), "odd.jpg")


def boxes_at_every_border(height, width):
    """The whole image, its four edges a pixel thick, a corner pixel, and one without area."""
    right, bottom = width, height
    rows = [
        (0, 0, right, bottom),
        (0, 0, right, 1),
        (0, bottom - 1, right, bottom),
        (0, 0, 1, bottom),
        (right - 1, 0, right, bottom),
        (right - 1, bottom - 1, right, bottom),
        (right, bottom, right, bottom),
    ]
    return np.array(rows, np.float32)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.filterwarnings("error")
def test_any_size_and_any_box_becomes_a_picture_with_boxes_that_can_be_encoded(height, width, mode):
    image, boxes = jpeg(height, width, mode), boxes_at_every_border(height, width)
    labels = np.arange(1, len(boxes) + 1)
    for transform in (TrainTransform(32, channel_swap=True), EvalTransform(32)):
        for seed in range(15):
            picture, placed, kept = transform(image, boxes, labels, rng=np.random.default_rng(seed))
            assert picture.shape == (3, 32, 32)
            assert len(placed) == len(kept)
            assert not (kept == 7).any()  # without area
            assert (placed >= 0).all()
            assert (placed <= 1).all()
            assert (placed[:, 2:] - placed[:, :2] > 0.999 * MIN_SIDE).all()


def test_the_whole_image_stays_whole_up_to_its_borders():
    _, boxes, labels = EvalTransform(32)(jpeg(70, 50, "RGB"), boxes_at_every_border(70, 50), np.arange(1, 8))
    assert labels.tolist() == [1, 2, 3, 4, 5, 6]
    expected = [[0, 0, 1, 1], [0, 0, 1, 1 / 70], [0, 69 / 70, 1, 1], [0, 0, 1 / 50, 1], [49 / 50, 0, 1, 1]]
    torch.testing.assert_close(boxes[:5], torch.tensor(expected))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_span_epochs_resume_in_the_middle_of_one(workers):
    data = ShapesDataset(5, seed=0, image_size=(40, 50))
    options = {"batch_size": 3, "num_batches": 7, "seed": 3, "num_workers": workers}
    whole = list(make_train_loader(data, TrainTransform(24), **options))
    rest = list(make_train_loader(data, TrainTransform(24), **options, start_batch=2))  # its first image ends epoch 1
    for mine, theirs in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(mine).values(), vars(theirs).values(), strict=True))


@pytest.mark.slow
def test_spawned_workers_load_the_same_batches_with_and_without_the_cache(coco, monkeypatch):
    for i in range(4):
        coco.add_image(i + 1, f"{i}.jpg")
        coco.annotate(i + 1, 3, [1, 2, 20, 20])
    data = CocoDataset(*coco.save())
    options = {"batch_size": 2, "num_batches": 4, "seed": 0}
    alone = list(make_train_loader(data, TrainTransform(24), **options))
    for dataset in (data, CachedDataset(data, budget_mib=1)):
        loader = make_train_loader(dataset, TrainTransform(24), **options, num_workers=2)
        loader.multiprocessing_context = "spawn"
        for mine, theirs in zip(alone, loader, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(vars(mine).values(), vars(theirs).values(), strict=True))


def test_a_photo_without_a_single_box_is_trained_on_as_background(coco):
    coco.add_image(1, "empty.jpg")
    batch = next(
        iter(make_train_loader(CocoDataset(*coco.save()), TrainTransform(24), batch_size=2, num_batches=1, seed=0))
    )
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.images.float().std() > 0
