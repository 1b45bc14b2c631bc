"""Figures inside a page: colours by variable, text as text, contrast."""

from xml.etree import ElementTree

import pytest

from ssdnorm.compare.svg import INK, PALETTE, Canvas, arm_styles


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", [name for name in PALETTE if name not in ("line", "surface")])
def test_text_has_a_contrast_of_4_5_and_curves_of_3(name, mode):
    least = 4.5 if name in ("ink", "soft") else 3.0
    assert contrast(PALETTE[name][mode], PALETTE["surface"][mode]) >= least


def test_contrast_of_black_on_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("num_arms", [2, 7, 13])
def test_no_two_arms_look_alike(num_arms):
    names = [f"arm {i}" for i in range(num_arms)]
    styles = arm_styles(names, "arm 1")
    assert len(set(styles.values())) == num_arms
    assert len({style.marker for style in styles.values()}) == num_arms
    assert styles["arm 1"].colour == PALETTE["arm-0"][0]


def small_figure(key: str) -> str:
    canvas = Canvas(key, title="a < b & $c$")
    canvas.axes.plot([1, 2], [3, 5], color=INK, marker="o", gid=canvas.tell("seed 0 & <more>"))
    return canvas.svg('shows "this"')


def test_an_svg_is_well_formed_and_keeps_its_text():
    root = ElementTree.fromstring(small_figure("one"))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert "a < b & $c$" in texts
    assert titles == ["seed 0 & <more>"]
    assert root.get("aria-label") == 'shows "this"'


def test_colours_are_the_pages_and_fonts_too():
    svg = small_figure("one")
    assert "var(--ink)" in svg
    assert INK not in svg
    assert "DejaVu" not in svg


def test_ids_of_two_figures_differ_and_the_same_figure_is_the_same():
    assert small_figure("one") == small_figure("one")
    ids = [
        {element.get("id") for element in ElementTree.fromstring(small_figure(key)).iter()} for key in ("one", "two")
    ]
    assert ids[0] & ids[1] == {None}


def test_a_logarithmic_axis_has_plain_numbers():
    canvas = Canvas("log")
    canvas.axes.plot([0, 1], [0.5, 200])
    canvas.logarithmic("y")
    svg = canvas.svg("a curve")
    assert ">100<" in svg
    assert "mathdefault" not in svg


def test_an_axis_is_widened_around_its_middle_but_never_narrowed():
    canvas = Canvas("span")
    canvas.axes.set_xlim(2.9, 3.1)
    canvas.axes.set_ylim(0, 40)
    canvas.at_least("x", 1.0)
    canvas.at_least("y", 1.0)
    assert canvas.axes.get_xlim() == pytest.approx((2.5, 3.5))
    assert canvas.axes.get_ylim() == (0, 40)
