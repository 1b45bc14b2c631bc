"""The detector: torchvision's calling convention."""

import numpy as np
import pytest
import torch
from torch import nn

from ssdnorm import Detector, MultiboxLoss, PostProcess, ssd300_vgg16
from ssdnorm.data.transforms import EvalTransform
from ssdnorm.detector import compile_for_inference
from tests.operation_count import OperationCount


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
    batch, _ = detector.prepare(IMAGES)
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


def one_target(box, *labels):
    return [{"boxes": torch.tensor([box]), "labels": torch.tensor(labels)}]


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (IMAGES, None, "one target per image; got 2 images, targets: none"),
        (IMAGES[:1], one_target([5.0, 5, 5, 9], 1), r"image 0: box \[5.0, 5.0, 5.0, 9.0\] has no area"),
        (IMAGES[:1], one_target([1.0, torch.nan, 9, 9], 1), r"image 0: box \[1.0, nan, 9"),
        (IMAGES[:1], one_target([1.0, 1, 9, 9], 4), "image 0: label 4 is not in 1 … 3"),
        (
            IMAGES[:1],
            one_target([1.0, 1, 9, 9], 1, 2, 3),
            r"image 0: expected boxes \(G, 4\) and labels \(G,\); got \(1, 4\) and \(3,\)",
        ),
        (IMAGES[:1], one_target([1.0] * 5, 1), r"got \(1, 5\) and \(1,\)"),
        ([], [], "expected one image or more; got none"),
        ([torch.zeros(1, 5, 5)], one_target([1.0, 1, 4, 4], 1), r"image 0: expected \(3, H, W\); got \(1, 5, 5\)"),
        *(
            ([torch.zeros(3, 20, 20, dtype=dtype)], one_target([1.0, 1, 9, 9], 1), f"or floats in .0, 1.; got {dtype}")
            for dtype in (torch.int32, torch.int64, torch.bool)
        ),
    ],
)
def test_images_and_targets_that_no_network_can_take_are_refused(detector, images, targets, message):
    with pytest.raises(ValueError, match=message):
        detector.train()(images, targets)


def test_the_first_mistake_of_a_batch_is_named_by_its_image(detector):
    (good,), (worse,) = one_target([1.0, 1, 9, 9], 1), one_target([1.0, 1, 9, 9], 0)
    bad = {"boxes": torch.tensor([[1.0, 1, 9, 9], [3.0, 7, 9, 7]]), "labels": torch.tensor([1, 3])}
    with pytest.raises(ValueError, match=r"image 1: box \[3.0, 7.0, 9.0, 7.0\] has no area"):
        detector.train()([IMAGES[0]] * 3, [good, bad, worse])
    with pytest.raises(ValueError, match="image 1: label 0 is not in"):
        detector.train()([IMAGES[0]] * 3, [good, worse, bad])


def test_targets_are_read_once_whatever_the_batch(detector):
    sizes = torch.tensor([[60, 90], [300, 200]] * 8)
    with OperationCount() as count:
        detector._pad(TARGETS * 8, sizes)
    assert count.syncs == 1


def test_class_names_of_another_number_are_refused(detector):
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        Detector(detector.model, None, detector.post_process, class_names=["a", "b"])


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("shape", [(333, 500), (90, 60), (300, 300)])
def test_the_detector_sees_the_pixels_of_the_data_pipeline(detector, antialias, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    resized, _, _ = EvalTransform(300, antialias=antialias)(pixels, np.zeros((0, 4)), np.zeros(0))
    ours = Detector(detector.model, None, detector.post_process, antialias=antialias)
    batch, sizes = ours.prepare([torch.from_numpy(pixels).permute(2, 0, 1)])
    assert batch.dtype == resized.dtype
    assert torch.equal(batch[0], resized)
    assert sizes.tolist() == [list(shape)]


def test_a_model_in_training_mode_is_not_compiled_for_inference():
    with pytest.raises(ValueError, match=r"the model is in training mode; call \.eval\(\)"):
        compile_for_inference(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))


@pytest.mark.slow
def test_the_compiled_model_gives_the_same_and_is_compiled_once():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    images = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    compile_for_inference(model, images)
    with torch.inference_mode(), torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(model(images.clone()), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model[0].weight.zero_()
    with torch.inference_mode():
        torch.testing.assert_close(model(images.clone()), expected, rtol=1e-4, atol=1e-5)  # frozen
