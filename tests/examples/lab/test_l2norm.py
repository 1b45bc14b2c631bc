"""L2Norm on real photographs, and its formula at its edges."""

import math

import pytest
import torch
from l2norm import draw_l2norm, eps_outside_the_root, formula_at_its_edges, measure_l2norm


@pytest.fixture(scope="module")
def numbers(real_data):
    weights = real_data("vgg16_conv_fp16.npz")
    paths = sorted(real_data("sample_photos").rglob("*.jpg"))[:2]
    return measure_l2norm(images=paths, weights=weights)


def test_conv4_3_is_many_times_longer_than_the_layers_after_it(numbers):
    layers = numbers["layers"]
    assert 800 < layers["conv4_3"]["median"] < 2500
    assert layers["conv4_3"]["median"] > 8 * layers["conv5_3"]["median"]
    assert layers["conv4_3"]["median"] > 3 * layers["fc7"]["median"]


def test_after_l2norm_every_position_has_length_20(numbers):
    after = numbers["layers"]["conv4_3 after L2Norm"]
    assert [after[key] for key in ("percentile_5", "median", "percentile_95")] == pytest.approx([20.0] * 3, rel=1e-4)
    assert after["rms_per_channel"] == pytest.approx(20 / math.sqrt(512), rel=1e-4)


def test_at_conv4_3_the_sum_of_squares_overflows_float16_everywhere(numbers):
    layer = numbers["layers"]["conv4_3"]
    assert layer["share_sum_of_squares_beyond_float16"] == 1
    assert layer["share_one_square_beyond_float16"] > 0.8
    assert layer["share_all_zero"] == 0


def test_the_figure_names_the_layers_and_says_what_is_random(numbers):
    (axes,) = draw_l2norm(numbers)["lengths"].axes
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [w.split(":")[0] for w in words] == ["conv4_3", "conv5_3", "fc7, random weights", "conv4_3 after L2Norm"]


def test_eps_outside_the_root_gives_a_nan_gradient_at_an_all_zero_position_and_the_layer_does_not():
    gradients = formula_at_its_edges()["gradient_at_0"]
    assert gradients["eps outside"] == "nan"
    assert float(gradients["L2Norm"]) == pytest.approx(1 / math.sqrt(1e-10))


def test_one_all_zero_position_spoils_the_gradient_of_a_weight_in_front_of_it():
    weight = torch.tensor(0.5, requires_grad=True)
    x = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]]]).transpose(0, 1)  # one image, two channels, two positions
    eps_outside_the_root(weight * x).sum().backward()
    assert weight.grad.isnan()


def test_in_float16_the_formula_gives_nan_at_0_and_0_at_256_and_the_layer_neither():
    formula = formula_at_its_edges()
    assert formula["eps_1e-10_in_float16"] == "0.0"
    assert formula["256_squared_in_float16"] == "inf"
    assert formula["output_at_0_in_float16"] == {"eps outside": "nan", "L2Norm": "0"}
    assert formula["output_at_256_in_float16"]["eps outside"] == "0"
    assert float(formula["output_at_256_in_float16"]["L2Norm"]) == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert formula["largest_rms_of_512_channels_in_float16"] == pytest.approx(11.31, abs=0.01)
