import colorsys

import numpy as np
import pytest

from ssdnorm.data.photometric import Distortion, draw_distortion

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)


def by_hand(image, distortion):
    """Caffe's order of steps in floats, a pixel at a time."""
    result = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        rgb = np.clip(image[place] + distortion.brightness, 0, 255)
        if not distortion.contrast_last:
            rgb = np.clip(rgb * distortion.contrast, 0, 255)
        hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
        hue, saturation = (hue + distortion.hue / 360) % 1, min(saturation * distortion.saturation, 1)
        rgb = np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255
        if distortion.contrast_last:
            rgb = np.clip(rgb * distortion.contrast, 0, 255)
        result[place] = rgb[list(distortion.channels)]
    return result


DISTORTIONS = {
    "brighter": Distortion(brightness=27.4),
    "darker": Distortion(brightness=-31.6),
    "contrast": Distortion(contrast=1.43),
    "paler": Distortion(saturation=0.55),
    "more saturated": Distortion(saturation=1.48),
    "hue up": Distortion(hue=17.2),
    "hue down": Distortion(hue=-17.9),
    "all, contrast first": Distortion(20.0, 0.6, 1.3, 12.0),
    "all, contrast last": Distortion(20.0, 1.45, 0.7, -12.0, contrast_last=True),
    "channels": Distortion(channels=(2, 0, 1)),
}


@pytest.mark.parametrize("name", DISTORTIONS)
def test_tables_follow_the_formula_to_the_rounding_of_eight_bits(name):
    distortion = DISTORTIONS[name]
    difference = np.abs(distortion(PICTURE) - by_hand(PICTURE, distortion))
    in_rgb_alone = distortion.saturation == 1 and distortion.hue == 0
    assert difference.max() <= (0.51 if in_rgb_alone else 8)
    assert difference.mean() < (0.45 if in_rgb_alone else 1.5)


def test_no_distortion_changes_nothing_and_the_picture_given_is_left_alone():
    before = PICTURE.copy()
    np.testing.assert_array_equal(Distortion()(PICTURE), PICTURE)
    Distortion(5.0, 1.2, 0.8, 9.0, channels=(1, 2, 0))(PICTURE)
    np.testing.assert_array_equal(PICTURE, before)


def test_draws_have_ssds_ranges_and_frequencies():
    rng = np.random.default_rng(0)
    drawn = [draw_distortion(rng) for _ in range(10_000)]
    neutral = {"brightness": (0, 32), "contrast": (1, 0.5), "saturation": (1, 0.5), "hue": (0, 18)}
    for name, (centre, reach) in neutral.items():
        values = np.array([getattr(item, name) for item in drawn])
        used = values[values != centre]
        assert abs(len(used) / len(values) - 0.5) < 0.02
        quartiles = np.quantile((used - centre) / reach, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quartiles, [-1, -0.5, 0, 0.5, 1], atol=0.05)
    assert abs(np.mean([item.contrast_last for item in drawn]) - 0.5) < 0.02
    assert {item.channels for item in drawn} == {(0, 1, 2)}


def test_channels_are_permuted_only_if_asked():
    rng = np.random.default_rng(0)
    assert len({draw_distortion(rng, channel_swap=True).channels for _ in range(200)}) == 6
