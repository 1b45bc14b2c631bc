"""The one-touch transform against the steps one after the other, by torchvision's transforms v2 functional."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as steps

from ssdnorm.data import EvalTransform, TrainTransform
from ssdnorm.data.crops import MIN_SIDE, Window
from ssdnorm.data.transforms import render_window

from .small_sets import encoded, smooth_photo

SIZE = 96
FILL = (124, 116, 104)
NO_BOXES, NO_LABELS = np.empty((0, 4), np.float32), np.empty(0, np.int64)


def step_by_step(image, boxes_px, view, size):
    """Pad, crop, resize, flip; (size, size, 3) float pixels and boxes in [0, 1] of those whose centre is inside."""
    height, width = image.shape[:2]
    picture = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(boxes_px).double(), format="XYXY", canvas_size=(height, width))
    pad = [max(0, -view.left), max(0, -view.top), max(0, view.right - width), max(0, view.bottom - height)]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = torch.tensor([view.left, view.top]), torch.tensor([view.right, view.bottom])
    inside = ((low < centre) & (centre < high)).all(dim=1)
    picture, boxes = (steps.pad(item, pad, fill=list(FILL)) for item in (picture, boxes))
    window = (view.top + pad[1], view.left + pad[0], view.height, view.width)
    picture, boxes = (steps.clamp_bounding_boxes(i) if i is boxes else i for i in (picture, boxes))
    picture, boxes = (steps.crop(item, *window) for item in (picture, boxes))
    picture, boxes = (steps.resize(item, [size, size], antialias=True) for item in (picture, boxes))
    if view.flip:
        picture, boxes = (steps.horizontal_flip(item) for item in (picture, boxes))
    return picture.permute(1, 2, 0).numpy().astype(float), (boxes[inside] / size).numpy()


VIEWS = {
    "whole": Window(0, 0, 250, 180),
    "crop": Window(33, 21, 201, 140),
    "crop, mirrored": Window(33, 21, 201, 140, flip=True),
    "enlarging crop": Window(100, 50, 160, 110),
    "zoomed out": Window(-131, -77, 480, 301),
    "zoomed out far, mirrored": Window(-400, -301, 589, 403, flip=True),
    "zoomed out and cropped": Window(-50, 60, 120, 260),
    "a corner of it, mirrored": Window(-90, -60, 41, 37, flip=True),
    "taller than wide": Window(-3, -200, 60, 380),
}


@pytest.mark.parametrize("name", VIEWS)
def test_one_touch_equals_the_steps_one_after_the_other(name):
    """Boxes to float32's last digit; pixels to 1/255 on average where the window is inside the image. Where it is not,
    the picture lies up to half an image pixel or half an output pixel off, whichever is less."""
    view, image = VIEWS[name], smooth_photo(180, 250)
    rng = np.random.default_rng(0)
    corners = rng.random((40, 2)) * [200, 130]
    boxes_px = np.concatenate([corners, corners + 5 + rng.random((40, 2)) * 45], axis=1).astype(np.float32)
    pixels, boxes = step_by_step(image, boxes_px, view, SIZE)
    difference = np.abs(render_window(image, view, SIZE, fill=FILL) - pixels)
    inside = view.left >= 0 and view.top >= 0 and view.right <= 250 and view.bottom <= 180
    assert difference.mean() < (0.1 if inside else 1.5)
    assert difference.max() <= (1 if inside else 130)
    np.testing.assert_allclose(view.place_boxes(boxes_px, np.ones(40, int))[0], boxes, rtol=0, atol=1e-6)


def centre_of_white(picture):
    weight = picture.astype(float).mean(axis=2)
    return [(weight.sum(axis=axis) * (np.arange(len(weight)) + 0.5)).sum() / weight.sum() for axis in (0, 1)]


@settings(max_examples=60)
@given(st.integers(-600, 200), st.integers(-400, 150), st.integers(100, 900), st.integers(100, 900), st.booleans())
def test_objects_lie_within_half_a_pixel_of_their_boxes(left, top, width, height, flip):
    image = np.zeros((300, 400, 3), np.uint8)
    image[140:180, 210:260] = 255
    view = Window(min(left, 205), min(top, 135), max(left + width, 265), max(top + height, 185), flip)
    boxes, _ = view.place_boxes(np.array([[210, 140, 260, 180]], np.float32), np.array([1]))
    middle = (boxes[0, :2] + boxes[0, 2:]) / 2 * SIZE
    np.testing.assert_allclose(centre_of_white(render_window(image, view, SIZE, fill=(0, 0, 0))), middle, atol=0.5)


def test_the_fill_is_never_distorted():
    picture = render_window(
        smooth_photo(50, 50), Window(-50, 0, 50, 50), 60, fill=(1, 2, 3), distort=lambda part: 255 - part
    )
    assert (picture[:, :29] == (1, 2, 3)).all()
    assert not (picture[:, 31:] == (1, 2, 3)).all()


def test_a_view_beside_the_image_is_all_fill():
    assert (render_window(smooth_photo(20, 20), Window(30, 0, 50, 20), 8, fill=(9, 8, 7)) == (9, 8, 7)).all()


def test_nothing_switched_on_is_the_evaluation_transform():
    image, boxes = smooth_photo(70, 90), np.array([[9, 7, 45, 70]], np.float32)
    plain = TrainTransform(60, photometric=False, zoom_out=False, iou_crop=False, flip=False)
    for ours, evaluation in zip(
        plain(image, boxes, np.array([3]), rng=np.random.default_rng(0)),
        EvalTransform(60)(image, boxes, np.array([3])),
        strict=True,
    ):
        torch.testing.assert_close(ours, evaluation, rtol=0, atol=0)
    torch.testing.assert_close(EvalTransform(60)(image, boxes, np.array([3]))[1], torch.tensor([[0.1, 0.1, 0.5, 1]]))


def test_shapes_types_and_memory_format_are_as_promised():
    image, boxes, labels = TrainTransform(64)(smooth_photo(50, 70), NO_BOXES, NO_LABELS, rng=np.random.default_rng(0))
    assert image.shape == (3, 64, 64)
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()
    assert boxes.shape == (0, 4)
    assert (boxes.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_the_generator_decides_everything_and_the_input_is_left_alone():
    image, boxes = smooth_photo(70, 90), np.array([[9, 7, 45, 70], [50, 20, 80, 40]], np.float32)
    kept_image, kept_boxes = image.copy(), boxes.copy()
    transform = TrainTransform(48, channel_swap=True)
    results = [transform(image, boxes, np.array([1, 2]), rng=np.random.default_rng(s)) for s in (5, 5, 6)]
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[2][0])
    np.testing.assert_array_equal(image, kept_image)
    np.testing.assert_array_equal(boxes, kept_boxes)


def test_every_step_can_be_switched_off():
    image = np.full((50, 50, 3), 200, np.uint8)
    image[:, :25] = 10
    boxes = np.array([[0, 0, 20, 50]], np.float32)
    off = {"photometric": False, "zoom_out": False, "iou_crop": False, "flip": False}
    plain = EvalTransform(32)(image, boxes, np.array([1]))[0]
    for step in (None, *off):
        transform = TrainTransform(32, **{name: name == step for name in off})
        changed = [
            not torch.equal(transform(image, boxes, np.array([1]), rng=np.random.default_rng(s))[0], plain)
            for s in range(20)
        ]
        assert any(changed) == (step is not None), step
        assert not all(changed), step


def test_channels_are_swapped_only_if_asked():
    red = np.full((8, 8, 3), (200, 0, 0), np.uint8)
    for asked, brightest in ((False, {0}), (True, {0, 1, 2})):
        transform = TrainTransform(8, zoom_out=False, channel_swap=asked)
        drawn = (transform(red, NO_BOXES, NO_LABELS, rng=np.random.default_rng(s))[0] for s in range(30))
        assert {int(image.float().mean(dim=(1, 2)).argmax()) for image in drawn} == brightest


def test_a_large_jpeg_is_decoded_smaller_and_shows_the_same():
    photo = smooth_photo(1200, 1600)
    jpeg, reductions = encoded(photo, quality=95), []
    jpeg.decode, original = lambda reduction=1: reductions.append(reduction) or original(reduction), jpeg.decode
    transform = TrainTransform(100, photometric=False)
    boxes = np.array([[200, 100, 900, 800]], np.float32)
    for seed in range(12):
        small = transform(jpeg, boxes, np.array([1]), rng=np.random.default_rng(seed))
        full = transform(original(), boxes, np.array([1]), rng=np.random.default_rng(seed))
        torch.testing.assert_close(small[1], full[1], rtol=0, atol=0)
        assert (small[0].float() - full[0].float()).abs().mean() < 1.5
    assert set(reductions) >= {2, 4}
    EvalTransform(100)(jpeg, boxes, np.array([1]))
    assert reductions[-1] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: expected pixels, 1 or more, or \\(height, width\\); got 0"),
        ({"size": 300, "fill": (0.5, 1, 300)}, r"fill: expected three values from 0 to 255 \(RGB\)"),
    ],
)
def test_unsupported_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**options)


ODD_SIZES = [(1, 1), (1, 900), (900, 1), (2, 3), (9, 8), (4, 1500), (700, 640)]


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


@pytest.mark.parametrize(
    ("height", "width", "mode"), [*((*size, "RGB") for size in ODD_SIZES), (9, 8, "L"), (9, 8, "CMYK")]
)
@pytest.mark.filterwarnings("error")
def test_any_size_and_any_box_becomes_a_picture_with_boxes_that_can_be_encoded(height, width, mode):
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image, boxes = encoded(Image.fromarray(picture).convert(mode)), boxes_at_every_border(height, width)
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
