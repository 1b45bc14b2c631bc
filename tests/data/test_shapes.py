import numpy as np
import pytest

from ssdnorm.data import ShapesDataset
from ssdnorm.data.shapes import CLASS_COLORS, SHAPES, _draw_shape, _outline, _Shape


def test_an_image_depends_on_seed_and_place_alone():
    short, long = ShapesDataset(3, seed=4, image_size=(60, 80)), ShapesDataset(9, seed=4, image_size=(60, 80))
    for place in range(3):
        np.testing.assert_array_equal(short.load_image(place), long.load_image(place))
        np.testing.assert_array_equal(short.training_boxes(place)[0], long.training_boxes(place)[0])
    np.testing.assert_array_equal(short.load_image(1), short.load_image(1))
    assert not np.array_equal(short.load_image(1), ShapesDataset(3, seed=5, image_size=(60, 80)).load_image(1))


@pytest.mark.parametrize("kind", range(len(SHAPES)))
@pytest.mark.parametrize("turn", [0.0, 0.4, 2.5])
def test_a_box_is_the_extent_of_what_is_drawn(kind, turn):
    canvas = np.zeros((200, 220, 3), np.uint8)
    outline = _outline(kind, turn) * 61.3 + [101.7, 95.2]
    box = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
    _draw_shape(canvas, _Shape(kind + 1, outline, box), np.random.default_rng(0))
    rows, columns = np.nonzero(canvas.max(axis=2) > 60)
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(drawn, box, atol=1.6)  # a star's tip is thinner than a pixel


def test_boxes_lie_inside_and_all_classes_are_about_as_frequent():
    data = ShapesDataset(400, seed=0, image_size=(100, 120))
    counts = np.zeros(6, int)
    for place in range(len(data)):
        boxes, labels = data.training_boxes(place)
        assert 1 <= len(boxes) <= 6
        assert (boxes >= 0).all()
        assert (boxes <= [120, 100, 120, 100]).all()
        counts += np.bincount(labels, minlength=6)
    assert counts[0] == 0
    assert counts[1:].min() > 0.7 * counts[1:].mean()
    assert data.load_image(3).shape == (*data.image_size(3), 3) == (100, 120, 3)


def test_classes_have_hues_of_their_own_where_asked_for():
    options = {"seed": 3, "image_size": (120, 120), "max_objects": 1, "min_side": 0.5, "max_side": 0.5}
    data, plain = ShapesDataset(40, class_colors=True, **options), ShapesDataset(40, **options)
    np.testing.assert_array_equal(data.ground_truth.boxes, plain.ground_truth.boxes)
    for i in range(len(data)):
        boxes, (label,) = data.training_boxes(i)
        x, y = ((boxes[0, :2] + boxes[0, 2:]) / 2).astype(int)
        middle = data.load_image(i)[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0)
        assert np.abs(middle - CLASS_COLORS[label - 1]).max() < 40 + 16  # jitter and noise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "expected 1 or more images"),
        ({"image_size": (8, 300)}, "image_size: expected sides of 16 pixels or more"),
        ({"min_side": 0.6}, "0 < min_side <= max_side"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShapesDataset(**{"num_images": 2, "seed": 0, **options})
