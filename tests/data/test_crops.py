"""Views against torchvision's transforms v2: the distributions over many draws, without pixels."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from ssdnorm.data.crops import CROP_OPTIONS, MIN_SIDE, Window, draw_flip, draw_iou_crop, draw_zoom_out, whole_image

HEIGHT, WIDTH = 375, 500
BOXES = np.array([[20, 30, 120, 200], [200, 100, 450, 350], [300, 20, 340, 60]], np.float32)
LABELS = np.array([1, 2, 3])


def ours(num_draws, *, zoom_out, crop):
    rng = np.random.default_rng(0)
    views = []
    for _ in range(num_draws):
        view = whole_image(HEIGHT, WIDTH)
        if zoom_out:
            view = draw_zoom_out(view, rng)
        views.append(draw_iou_crop(view, BOXES, rng) if crop else view)
    return views


def torchvisions(num_draws, *, zoom_out, crop):
    torch.manual_seed(0)
    expand, cut = v2.RandomZoomOut(side_range=(1.0, 4.0), p=0.5), v2.RandomIoUCrop(trials=50)
    views = []
    for _ in range(num_draws):
        left, top, height, width = 0, 0, HEIGHT, WIDTH
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=(height, width))
        if zoom_out and torch.rand(1) < 0.5:
            image = torch.empty(1, 1, 1).expand(3, height, width)
            pad = expand.make_params([tv_tensors.Image(image)])["padding"]
            left, top = -pad[0], -pad[1]
            height, width = height + pad[1] + pad[3], width + pad[0] + pad[2]
            boxes = tv_tensors.BoundingBoxes(
                boxes + torch.tensor(pad[:2] * 2), format="XYXY", canvas_size=(height, width)
            )
        if crop:
            image = torch.empty(1, 1, 1).expand(3, height, width)
            params = cut.make_params([tv_tensors.Image(image), boxes])
            if params:
                left, top = left + params["left"], top + params["top"]
                height, width = params["height"], params["width"]
        views.append(Window(left, top, left + width, top + height))
    return views


def describe(views):
    """Columns: share of the image's width and height, x and y of the middle, number of boxes kept, area of boxes."""
    rows = []
    for view in views:
        kept, _ = view.place_boxes(BOXES, LABELS)
        area = (kept[:, 2:] - kept[:, :2]).prod(axis=1).sum()
        middle = (view.left + view.right) / 2 / WIDTH, (view.top + view.bottom) / 2 / HEIGHT
        rows.append((view.width / WIDTH, view.height / HEIGHT, *middle, len(kept), area))
    return np.array(rows)


@pytest.mark.parametrize(
    ("zoom_out", "crop", "draws"),
    [
        (True, False, 10_000),
        pytest.param(False, True, 5000, marks=pytest.mark.slow),
        (True, True, 300),
        pytest.param(True, True, 3000, marks=pytest.mark.slow),
    ],
)
def test_windows_and_kept_boxes_are_distributed_as_torchvisions(zoom_out, crop, draws):
    mine = describe(ours(draws, zoom_out=zoom_out, crop=crop))
    theirs = describe(torchvisions(draws, zoom_out=zoom_out, crop=crop))
    for column in range(mine.shape[1]):
        assert ks_2samp(mine[:, column], theirs[:, column], method="asymp").pvalue > 0.001


def test_the_options_of_a_crop_are_torchvisions():
    options = sorted(1.0 if option is None else option for option in CROP_OPTIONS)  # at 1 the image stays whole
    assert options == v2.RandomIoUCrop().options


def test_an_option_that_no_crop_of_fifty_meets_gives_way_to_another():
    rng = Mock(wraps=np.random.default_rng(0))
    rng.integers.side_effect = map(CROP_OPTIONS.index, (0.9, None))
    speck = np.array([[1, 1, 2, 2]], np.float32)
    assert draw_iou_crop(whole_image(HEIGHT, WIDTH), speck, rng) == whole_image(HEIGHT, WIDTH)
    rng.random.assert_called_once_with((50, 4))


@pytest.mark.parametrize("least", [0.1, 0.5, 0.7])
def test_a_crop_overlaps_an_object_as_much_as_its_option_asks(least, monkeypatch):
    monkeypatch.setattr("ssdnorm.data.crops.CROP_OPTIONS", (least,))
    rng = np.random.default_rng(0)
    overlaps = []
    for _ in range(30):
        view = draw_iou_crop(whole_image(HEIGHT, WIDTH), BOXES, rng)
        window = torch.tensor([[view.left, view.top, view.right, view.bottom]], dtype=torch.float32)
        _, labels = view.place_boxes(BOXES, LABELS)  # those whose centre it holds
        overlaps.append(float(box_iou(window, torch.from_numpy(BOXES[labels - 1])).max()))
    assert min(overlaps) >= least
    assert min(overlaps) < least + 0.2


def test_an_image_without_boxes_is_not_cropped():
    view = whole_image(30, 40)
    assert draw_iou_crop(view, np.empty((0, 4), np.float32), np.random.default_rng(0)) == view


def test_boxes_are_kept_by_centre_cut_and_mirrored():
    boxes = np.array([[10, 10, 30, 30], [0, 0, 19, 40], [90, 10, 130, 30]], np.float32)
    placed, labels = Window(10, 0, 110, 50).place_boxes(boxes, LABELS)
    np.testing.assert_allclose(
        placed, [[0, 0.2, 0.2, 0.6]]
    )  # the second's centre 9.5 is left of 10, the third's 110 on the edge
    assert labels.tolist() == [1]
    mirrored, _ = Window(10, 0, 110, 50, flip=True).place_boxes(boxes, LABELS)
    np.testing.assert_allclose(mirrored, [[0.8, 0.2, 1.0, 0.6]])


def test_boxes_too_thin_to_encode_are_left_out():
    boxes = np.array([[10, 10, 10.05, 30], [10, 10, 10.2, 30]], np.float32)
    placed, labels = whole_image(50, 100).place_boxes(boxes, np.array([1, 2]))
    assert labels.tolist() == [2]
    assert placed[0, 2] - placed[0, 0] >= MIN_SIDE


def test_half_of_all_views_are_mirrored():
    rng = np.random.default_rng(0)
    mirrored = sum(draw_flip(whole_image(3, 4), rng).flip for _ in range(2000))
    assert 900 < mirrored < 1100


@given(st.integers(0, 2**32 - 1), st.integers(1, 500), st.integers(1, 500))
def test_placed_boxes_are_always_encodable(seed, height, width):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((5, 2, 2)), axis=1) * [width, height]
    boxes = corners.reshape(5, 4).astype(np.float32)
    view = draw_iou_crop(draw_zoom_out(whole_image(height, width), rng), boxes, rng)
    placed, labels = view.place_boxes(boxes, np.arange(1, 6))
    assert len(placed) == len(labels)
    assert placed.dtype == np.float32
    assert (placed >= 0).all()
    assert (placed <= 1).all()
    assert (placed[:, 2:] > placed[:, :2]).all()
