"""The one resize: against Pillow, by dtype, and without antialiasing against interpolation between centres."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssdnorm.resize import resize_image


def random_picture(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(60, 45), (301, 20), (10, 200)])
def test_antialiased_bytes_are_pillows_up_to_one_step(height, width):
    image = random_picture(120, 90)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BILINEAR)
    ours = resize_image(image, height, width)
    assert ours.dtype == torch.uint8
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow).astype(int)).max() <= 1


def test_bytes_and_floats_agree_up_to_rounding():
    image = random_picture(64, 80)
    floats = resize_image(image.float() / 255, 30, 30)
    assert (resize_image(image, 30, 30).float() / 255 - floats).abs().max() <= 1 / 255


def test_without_antialiasing_half_the_size_takes_the_mean_of_the_four_nearest():
    image = random_picture(4, 6)
    expected = image.float().unflatten(1, (2, 2)).unflatten(3, (3, 2)).mean(dim=(2, 4)) / 255
    torch.testing.assert_close(resize_image(image, 2, 3, antialias=False), expected)


def test_a_picture_of_the_right_size_stays_as_it_is():
    image = random_picture(7, 5)
    assert torch.equal(resize_image(image, 7, 5), image)
