"""The pages of docs/lab: figures are there and small, tables hold the numbers of the JSON."""

import json
import re
from pathlib import Path

import pytest

from ssdnorm.lab.catalogue import DEMONSTRATIONS

FOLDER = Path(__file__).parents[2] / "docs" / "lab"
PAGES = {name: (FOLDER / f"{name}.md") for name in DEMONSTRATIONS}
HEADINGS = ["What is asked", "What is seen", "What this does not show", "Sources"]


def numbers_in(value):
    if isinstance(value, dict):
        return [n for name, item in value.items() for n in numbers_in(name) + numbers_in(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers_in(item)]
    try:
        return [float(value)]
    except (TypeError, ValueError):
        return []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_question_a_command_figures_limits_and_sources(name):
    text = PAGES[name].read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == HEADINGS
    assert f"python scripts/lab.py {name}" in text
    assert f"figures/{name}_" in text
    assert f"({name}.md)" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_the_figures_of_a_page_are_there_and_small_and_none_is_left_over(name):
    shown = set(re.findall(r"\]\(figures/([\w.-]+\.png)\)", PAGES[name].read_text(encoding="utf-8")))
    assert shown == {path.name for path in (FOLDER / "figures").glob(f"{name}_*.png")}
    for figure in shown:
        assert (FOLDER / "figures" / figure).stat().st_size < 150_000


@pytest.mark.parametrize("name", PAGES)
def test_a_number_with_a_decimal_point_in_a_table_is_one_of_the_json(name):
    known = numbers_in(json.loads((FOLDER / "figures" / f"{name}.json").read_text(encoding="utf-8")))
    rows = re.findall(r"^\|.*\|$", PAGES[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
    quoted = re.findall(r"(?<![\w.])−?\d+\.\d+(?![\w.])", "\n".join(rows))
    for words in quoted:
        digits = len(words.split(".")[1])
        value = float(words.replace("−", "-"))
        assert any(abs(value - n) <= 0.501 * 10**-digits for n in known), f"{words} is not in {name}.json"
