"""Figures as SVG: text as text, colours by variable, words on hover, ids of their own."""

from xml.etree import ElementTree

from ssdnorm.plots.colors import COLORS, PALETTE
from ssdnorm.plots.style import panels
from ssdnorm.plots.svg import figure_to_svg, hover


def small_figure(key: str) -> str:
    figure, ((axes,),) = panels(width=4, height=2)
    axes.set_title("a < b & $c$", parse_math=False)
    axes.plot([1, 2], [3, 5], color=COLORS["blue"], marker="o", gid=hover("seed 0 & <more>"))
    return figure_to_svg(figure, key, 'shows "this"')


def test_text_stays_text_and_every_hover_is_the_title_of_its_artist():
    root = ElementTree.fromstring(small_figure("one"))
    assert "a < b & $c$" in [element.text for element in root.iter() if element.tag.endswith("text")]
    titled = [element for element in root.iter() if any(child.tag.endswith("}title") for child in element)]
    assert [element[0].text for element in titled] == ["seed 0 & <more>"]
    assert any(child.tag.endswith("}path") for child in titled[0])
    assert (root.get("aria-label"), root.get("class"), root.get("viewBox")) == ('shows "this"', "plot", "0 0 288 144")


def test_every_colour_of_the_palette_is_a_variable_that_the_figure_defines_for_light_and_dark():
    svg = small_figure("one")
    root = ElementTree.fromstring(svg)
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert "var(--blue)" in styles
    assert not any(color in styles for color in COLORS.values())
    for name, (light, dark) in PALETTE.items():
        assert f"--{name}: {light}" in svg
        assert f"--{name}: {dark}" in svg


def test_ids_of_two_figures_differ_and_the_same_figure_is_the_same():
    assert small_figure("one") == small_figure("one")
    ids = [{e.get("id") for e in ElementTree.fromstring(small_figure(key)).iter()} for key in ("one", "two")]
    assert len(ids[0]) > 1
    assert ids[0] & ids[1] == {None}
