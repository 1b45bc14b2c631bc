"""The detector: torchvision's calling convention."""

import pytest
import torch

from ssdnorm import Detector, MultiboxLoss, PostProcess, ssd300_vgg16


@pytest.fixture(scope="module")
def detector():
    model = ssd300_vgg16(4, width=0.02, dropout=0)
    return Detector(
        model, MultiboxLoss(model.default_boxes), PostProcess(model.default_boxes), class_names=["a", "b", "c"]
    )


IMAGES = [torch.rand(3, 60, 90), torch.randint(0, 256, (3, 300, 200), dtype=torch.uint8)]
TARGETS = [
    {"boxes": torch.tensor([[9.0, 6, 45, 30]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def test_training_gives_losses_of_boxes_in_each_images_own_pixels(detector):
    losses = detector.train()(IMAGES, TARGETS)
    batch = torch.stack([detector._resize(image, 0) for image in IMAGES])
    expected = detector.loss(
        detector.model(batch), torch.tensor([[[0.1, 0.1, 0.5, 0.5]], [[0.0] * 4]]), torch.tensor([[2], [0]])
    )
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_evaluation_gives_detections_in_each_images_own_pixels(detector):
    detections = detector.eval()(IMAGES)
    for image, found in zip(IMAGES, detections, strict=True):
        height, width = image.shape[-2:]
        assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"]) > 0
        assert found["boxes"].min() >= 0
        assert (found["boxes"].amax(dim=0) <= torch.tensor([width, height, width, height])).all()


def test_training_without_targets_is_refused(detector):
    with pytest.raises(ValueError, match="one target per image; got 2 images, targets: none"):
        detector.train()(IMAGES)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            {"boxes": torch.tensor([[5.0, 5, 5, 9]]), "labels": torch.tensor([1])},
            r"image 0: box \[5.0, 5.0, 5.0, 9.0\] has no area",
        ),
        ({"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([4])}, r"image 0: label 4 is not in 1 … 3"),
        ({"boxes": torch.tensor([[1.0, torch.nan, 9, 9]]), "labels": torch.tensor([1])}, r"image 0: box \[1.0, nan, 9"),
        (
            {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1, 2, 3])},
            r"image 0: expected boxes \(G, 4\) and labels \(G,\); got \(1, 4\) and \(3,\)",
        ),
        ({"boxes": torch.ones(1, 5), "labels": torch.tensor([1])}, r"got \(1, 5\) and \(1,\)"),
    ],
)
def test_targets_that_no_loss_can_take_are_refused(detector, target, message):
    with pytest.raises(ValueError, match=message):
        detector.train()(IMAGES[:1], [target])


def test_the_first_mistake_of_a_batch_is_named_by_its_image(detector):
    good = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1])}
    bad = {"boxes": torch.tensor([[1.0, 1, 9, 9], [3.0, 7, 9, 7]]), "labels": torch.tensor([1, 3])}
    worse = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([0])}
    with pytest.raises(ValueError, match=r"image 1: box \[3.0, 7.0, 9.0, 7.0\] has no area"):
        detector.train()([IMAGES[0]] * 3, [good, bad, worse])
    with pytest.raises(ValueError, match="image 1: label 0 is not in"):
        detector.train()([IMAGES[0]] * 3, [good, worse, bad])


def test_grey_images_and_wrong_class_counts_are_refused(detector):
    with pytest.raises(ValueError, match=r"image 0: expected \(3, H, W\); got \(1, 5, 5\)"):
        detector.eval()([torch.zeros(1, 5, 5)])
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        Detector(detector.model, None, detector.post_process, class_names=["a", "b"])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool])
def test_images_of_other_numbers_and_no_images_are_refused(detector, dtype):
    with pytest.raises(ValueError, match=f"image 0: expected uint8 or floats in .0, 1.; got {dtype}"):
        detector.eval()([torch.zeros(3, 20, 20, dtype=dtype)])
    with pytest.raises(ValueError, match="expected one image or more; got none"):
        detector.eval()([])
