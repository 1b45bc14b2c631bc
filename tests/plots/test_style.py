"""The style: contrast of the palette, arms that differ, axes."""

import pytest

from ssdnorm.plots.colors import BOX_COLORS, COLORS, PALETTE, relative_luminance, text_color
from ssdnorm.plots.style import arm_styles, logarithmic, panels, widen


def contrast(one: str, other: str) -> float:
    light, dark = sorted((relative_luminance(one), relative_luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", [name for name in PALETTE if name not in ("line", "surface")])
def test_text_has_a_contrast_of_4_5_and_curves_of_3(name, mode):
    least = 4.5 if name in ("ink", "soft") else 3.0
    assert contrast(PALETTE[name][mode], PALETTE["surface"][mode]) >= least


@pytest.mark.parametrize("ground", [*COLORS.values(), *BOX_COLORS])
def test_captions_can_be_read_on_every_colour(ground):
    assert contrast(text_color(ground), ground) >= 4.5


def test_contrast_of_black_on_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("num_arms", [2, 7, 13])
def test_no_two_arms_look_alike(num_arms):
    styles = arm_styles([f"arm {i}" for i in range(num_arms)], "arm 1")
    assert len(set(styles.values())) == num_arms
    assert len({style.marker for style in styles.values()}) == num_arms
    assert styles["arm 1"].hue == "grey"


def test_a_logarithmic_axis_has_plain_numbers():
    figure, ((axes,),) = panels()
    axes.plot([0, 1], [0.5, 200])
    logarithmic(axes, "y")
    figure.draw_without_rendering()
    assert "100" in [label.get_text() for label in axes.get_yticklabels()]


def test_an_axis_is_widened_around_its_middle_but_never_narrowed():
    _, ((axes,),) = panels()
    axes.set_xlim(2.9, 3.1)
    axes.set_ylim(0, 40)
    widen(axes, "x", 1.0)
    widen(axes, "y", 1.0)
    assert axes.get_xlim() == pytest.approx((2.5, 3.5))
    assert axes.get_ylim() == (0, 40)
