"""The report: one file, everything in it, nothing invented."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from ssdnorm.compare.report import write_report
from tests.compare.made_up import make_comparison, shapes

_VOID = {"meta", "br", "wbr"}


class Page(HTMLParser):
    """What a browser would find: tags closed in order, headings, links, ids, text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append((tag, ""))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and re.fullmatch(r"h\d", self.open[-1]):
            self.headings[-1] = (self.open[-1], data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def report(folder: Path, **options) -> tuple[str, Page]:
    test_set = shapes(4)
    results = make_comparison(folder, test_set=test_set, **options)
    write_report(results, folder, test_set, folder / "report.html")
    html = (folder / "report.html").read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return report(tmp_path_factory.mktemp("whole"), rates=(0.001, 0.005), diverged=[("none", 1)])


def test_a_full_report_has_every_section_in_order(whole):
    assert [text for level, text in whole[1].headings if level == "h2"] == [
        "Result",
        "Learning curves",
        "Learning rates tried",
        "Why",
        "Classes",
        "The same images, arm by arm",
        "Costs",
        "Runs that did not finish",
        "What was matched, and what was not",
        "How to read it",
        "Provenance",
    ]


def test_it_needs_no_other_file(whole):
    html, page = whole
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    addresses += [attributes["xlink:href"] for _, attributes in page.tags if "xlink:href" in attributes]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_ids_are_unique_and_every_reference_leads_to_one(whole):
    _, page = whole
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("href", "xlink:href") and value.startswith("#"):
                assert value[1:] in ids
            for reference in re.findall(r"url\(#([^)]+)\)", value or ""):
                assert reference in ids


def test_headings_do_not_skip_a_level_and_there_is_one_h1(whole):
    levels = [int(level[1]) for level, _ in whole[1].headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_figure_and_picture_says_what_it_shows(whole):
    _, page = whole
    pictures = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert len(pictures) > 20
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))


def test_it_shows_the_answer_each_verdict_each_sentence_and_why_runs_were_lost(tmp_path, whole):
    results = make_comparison(tmp_path, rates=(0.001, 0.005), diverged=[("none", 1)], diagnostics=False)
    text = whole[1].text
    assert results.answer in text
    for arm in results.arms:
        assert arm.verdict in text
        assert arm.sentence in text
    assert "loss is nan at step 340 <after a spike>" in text
    gap = results.arms[2].differences["AP"]
    assert f"{100 * gap.paired.mean:+.2f}".replace("-", "−") in text
    assert f"{gap.p_holm:.3f}" in text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    first, _ = report(tmp_path / "a", arms=["x", "y"], seeds=[0])
    second, _ = report(tmp_path / "b", arms=["x", "y"], seeds=[0])
    assert first == second


def test_names_and_reasons_are_text_never_markup(tmp_path):
    html, page = report(
        tmp_path, arms=["a", "<script>alert(1)</script> & $x_1$ \"'"], diverged=[("a", 0)], seeds=[0, 1]
    )
    assert not page.all("script")
    assert page.text.count("<script>alert(1)</script> & $x_1$ \"'") > 5
    assert "<script>alert" not in html


def test_sections_without_content_are_left_out(tmp_path):
    _, page = report(tmp_path, seeds=[0], diagnostics=False, arms=["a", "b"])
    titles = [text for level, text in page.headings if level == "h2"]
    for missing in ("Why", "Learning rates tried", "Runs that did not finish"):
        assert missing not in titles
    links = [attributes["href"] for attributes in page.all("a")]
    assert "#why" not in links
    assert "cannot be told from one seed" in page.text


def test_an_arm_without_a_finished_run_is_shown_with_dashes(tmp_path):
    lost = [("b", seed) for seed in range(3)]
    _, page = report(tmp_path, arms=["a", "b"], diverged=lost, class_names=["only"], diagnostics=False)
    assert "incomplete" in page.text
    assert page.text.count("diverged") >= 3


def test_a_comparison_of_which_nothing_finished_still_has_a_report(tmp_path):
    lost = [(arm, seed) for arm in ("a", "b") for seed in (0, 1)]
    _, page = report(tmp_path, arms=["a", "b"], seeds=[0, 1], diverged=lost, diagnostics=False)
    assert "Classes" not in [text for _, text in page.headings]


def test_run_folders_may_be_gone(tmp_path):
    test_set = shapes(2)
    results = make_comparison(tmp_path / "was", arms=["a", "b"], seeds=[0, 1], test_set=test_set)
    write_report(results, tmp_path / "gone", test_set, tmp_path / "report.html")
    titles = [text for _, text in Page((tmp_path / "report.html").read_text(encoding="utf-8")).headings]
    assert "Result" in titles
    assert "Learning curves" not in titles


def test_many_arms_and_eighty_classes_stay_below_five_megabytes(tmp_path):
    arms = [f"norm {i} with a name that is longer than most" for i in range(13)]
    html, page = report(tmp_path, arms=arms, class_names=[f"class {i}" for i in range(80)], diagnostics=False)
    assert len(html.encode()) < 5e6
    assert len(page.all("polygon")) >= 13
    assert page.text.count("class 79") == 1
