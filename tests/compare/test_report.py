"""The report: one file, everything in it, nothing invented."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from ssdnorm.compare.conclusions import conclude
from ssdnorm.compare.report import limits_of, write_report
from ssdnorm.compare.result_figures import result_figures
from ssdnorm.compare.results import Results
from ssdnorm.plots.colors import HIT, MISSED, WRONG
from ssdnorm.plots.style import arm_styles

from .synthetic import DIFF, REASON, make_comparison, shapes

_VOID = {"meta", "br", "img", "wbr"}


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


def report(folder: Path, results: Results | None = None, **options) -> tuple[str, Page]:
    test_set = shapes(30 if results else 4)
    results = results or make_comparison(folder, test_set=test_set, **options)
    write_report(results, folder, test_set, folder / "report.html")
    html = (folder / "report.html").read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def full(whole):
    """The report of the whole comparison: its HTML, its tree, and the results in it."""
    results, folder = whole
    return *report(folder, results), results


def test_a_full_report_has_every_section_in_order(full):
    assert "; ".join(text for level, text in full[1].headings if level == "h2") == (
        "Result; Learning curves; Learning rates tried; Why; Classes; The same images, arm by arm; Costs; Runs that "
        "did not finish; What arms share before the first step; How to read it; Provenance"
    )


def test_it_needs_no_other_file_and_every_reference_leads_to_an_id(full):
    html, page, _ = full
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a[name] for _, a in page.tags for name in ("src", "href", "xlink:href") if name in a]
    assert {link.partition(":")[0] for link in links if not link.startswith("#")} == {"data"}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)
    assert "@import" not in html
    assert html.count("url(") == html.count("url(#")


def test_headings_do_not_skip_a_level_and_there_is_one_h1(full):
    levels = [int(level[1]) for level, _ in full[1].headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_figure_and_picture_says_what_it_shows(full):
    page = full[1]
    pictures = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert len(pictures) > 20
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))


def test_it_shows_the_answer_each_sentence_why_runs_were_lost_and_each_verdict_beside_its_arm(full):
    html, page, results = full
    gap = results.arms[2].differences["AP"]
    sentences = [each.sentence for each in (*results.arms, *results.contrasts)]
    expected = [results.answer, *sentences, "batch_norm − none", f"{results.arms[2].finding.p:.3f}", REASON, DIFF]
    for words in [*expected, f"{100 * gap.paired.mean:+.2f}".replace("-", "−")]:
        assert words in page.text
    cells = re.findall(r'<th scope="row">(.*?)</th>', html.split("<table>")[1], re.S)
    for arm, cell in zip(results.arms, cells, strict=True):
        words = re.sub(r"<[^>]*>", "", cell)
        assert words.startswith(arm.name)
        assert words.endswith(arm.verdict)


def test_seeds_that_failed_and_what_seeds_can_show_have_their_own_part(full):
    html, page, results = full
    parts = [text for level, text in page.headings if level == "h3"]
    assert {"Contrasts", "What these seeds can show", "Seeds that diverged or did not learn"} <= set(parts)
    row = html.split('aria-label="Seeds that failed, by arm"')[1].split("<tr>")[3]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)
    outcome = results.arms[1].outcome
    assert cells[:2] == ["2 of 3", "1"]
    assert cells[3:] == [f"{100 * outcome.mean_learnt:.1f}", f"{100 * outcome.mean_all:.1f}"]


def test_a_second_look_is_named_in_the_answer_and_among_the_limits(whole):
    results = replace(whole[0], second_look="margin")
    assert conclude(results).endswith("Second look: margin declared after verdicts were known.")
    assert "Declared after verdicts were known: margin." in limits_of(results)[0]


def test_the_learned_scales_have_digits_enough_to_see_them_move(tmp_path):
    results = make_comparison(tmp_path, arms=["a", "b"], seeds=[0], test_set=shapes(2))
    measured = {"mean": (20, 19.984), "std": (0, 0.02), "min": (20, 19.91), "max": (20, 20.04)}
    rows = [f"{90 * i},scale_{kind},conv4_3,{values[i]}\n" for i in (0, 1) for kind, values in measured.items()]
    path = tmp_path / results.arms[0].chosen_runs[0].folder / "diagnostics.csv"
    path.write_text("".join(["step,statistic,name,value\n", *rows]))
    html, _ = report(tmp_path, results)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html.split('aria-label="Learned scales by arm and tap"')[1])
    assert cells[:7] == ["conv4_3", "20", "19.984", "−0.08 %", "0.02", "19.91", "20.04"]


@pytest.mark.parametrize(("num_arms", "columns"), [(4, 3), (6, 4)])
def test_all_pictures_of_an_image_are_in_rows_of_four_at_most(tmp_path, num_arms, columns):
    _, page = report(tmp_path, arms=[f"arm {i}" for i in range(num_arms)], seeds=[0], rates=[0.1])
    strips = [attributes for attributes in page.all("div") if attributes.get("class") == "strip"]
    assert [strip["style"] for strip in strips] == [f"--columns:{columns}"] * 4
    assert len(page.all("img")) == 4 * (1 + num_arms)


def test_pictures_say_what_is_in_them_and_the_legend_names_their_colours(full):
    html, page, _ = full
    legend = html.split('aria-label="Colours of the boxes"')[1].split("</ul>")[0]
    colours = re.findall(r'stroke="(#\w+)".*?</svg>(\w+):', legend)
    assert colours == [(HIT, "found"), (WRONG, "wrong"), (MISSED, "missed")]
    alts = [attributes["alt"] for attributes in page.all("img")]
    assert len(alts) == 5 * 4
    assert re.fullmatch(r"ground truth: \d+ objects?", alts[0])
    assert re.fullmatch(r"batch_norm: \d+ found, \d+ wrong, \d+ missed", alts[3])
    assert alts[3].partition(": ")[2] in page.text


def test_the_figures_of_the_page_are_the_files_beside_it(full, whole):
    html, page, _ = full
    folder = whole[1]
    files = {path.stem: path.read_text(encoding="utf-8").strip() for path in (folder / "figures").iterdir()}
    expected = (
        "legend seeds differences power evaluations losses rates length-conv4_3 rms-fc7 scales-conv4_3 gradients dead"
    )
    assert set(expected.split()) < set(files)
    assert [name for name, svg in files.items() if svg not in html] == ["legend"]
    assert sum(attributes.get("class") == "plot" for attributes in page.all("svg")) == len(files) - 1
    assert all(arm in files["legend"] for arm in ("l2_norm", "none", "batch_norm"))


def test_learning_rates_have_a_logarithmic_axis_with_plain_numbers(whole):
    results = whole[0]
    figure, _ = result_figures(results, arm_styles([arm.name for arm in results.arms], results.baseline))["rates"]
    (axes,) = figure.axes
    figure.draw_without_rendering()
    assert axes.get_xscale() == "log"
    assert {"0.001", "0.002", "0.005"} <= {label.get_text() for label in axes.get_xticklabels()}


def test_the_same_input_gives_the_same_bytes(tmp_path):
    pages = [report(tmp_path / one, arms=["x", "y"], seeds=[0], rates=[0.1])[0] for one in "ab"]
    assert pages[0] == pages[1]
    figures = [{path.name: path.read_bytes() for path in (tmp_path / one / "figures").iterdir()} for one in "ab"]
    assert figures[0] == figures[1]


def test_names_and_reasons_are_text_never_markup(tmp_path):
    name = "<script>alert(1)</script> & $x_1$ \"'"
    html, page = report(tmp_path, arms=["a", name], diverged=[("a", 0)], seeds=[0, 1], rates=[0.1])
    assert not page.all("script")
    assert page.text.count(name) > 5
    assert "<script>alert" not in html


@pytest.mark.parametrize("lost", [["b"], ["a", "b"]], ids=["one arm", "both arms"])
def test_an_arm_without_a_finished_run_is_still_reported(tmp_path, lost):
    diverged = [(arm, seed) for arm in lost for seed in (0, 1)]
    _, page = report(tmp_path, arms=["a", "b"], seeds=[0, 1], rates=[0.1], diverged=diverged)
    assert "incomplete" in page.text
    assert page.text.count("diverged") >= len(diverged)
    assert ("Classes" in [text for _, text in page.headings]) == (lost == ["b"])


def test_run_folders_and_a_recorded_start_may_be_gone_and_sections_without_content_are_left_out(tmp_path):
    results = make_comparison(tmp_path / "was", arms=["a", "b"], seeds=[0, 1], rates=[0.1], test_set=shapes(2))
    arms = [results.arms[0], replace(results.arms[1], matched=None)]
    _, page = report(tmp_path / "gone", replace(results, arms=arms))
    assert page.text.count("not recorded") == 1
    titles = [text for _, text in page.headings]
    assert "Result" in titles
    assert not {"Learning curves", "Why", "Learning rates tried", "Runs that did not finish"} & set(titles)
    assert "#why" not in [attributes["href"] for attributes in page.all("a")]


def test_many_arms_and_eighty_classes_stay_below_five_megabytes(tmp_path):
    arms = [f"norm {i} with a name that is longer than most" for i in range(13)]
    results = make_comparison(tmp_path, arms=arms, seeds=[0, 1], rates=[0.1], test_set=shapes(4))
    per_class = {f"class {i}": i / 80 for i in range(80)}
    results = replace(results, arms=[replace(arm, per_class=per_class) for arm in results.arms])
    html, page = report(tmp_path, results)
    assert len(html.encode()) < 5e6
    assert len(page.all("polygon")) >= 13
    assert page.text.count("class 79") == 1


def test_each_weakness_of_a_comparison_adds_a_limit_that_names_the_arms(whole):
    results = whole[0]

    def limits(**changes):
        return limits_of(replace(results, **changes))

    assert sum("l2_norm, none, batch_norm" in limit for limit in limits()) == 1
    tried = [replace(arm, rates=[*arm.rates, replace(arm.rates[0], lr=0.05)]) for arm in results.arms]
    assert len(limits(arms=tried)) == len(limits()) - 1
    fixed = [replace(arm, rates=arm.rates[-1:]) for arm in results.arms]
    assert len(limits(arms=[replace(fixed[0], lr=0.01), *fixed[1:]])) == len(limits(arms=fixed)) + 1
    assert "One data set, one schedule, one architecture" in " ".join(limits())
    lengths = {**results.provenance, "steps": [150, 1200], "batch_size": [2, 16]}
    assert "one schedule" not in " ".join(limits(provenance=lengths))
    assert len(limits(provenance={**results.provenance, "commits": ["a", "b"]})) == len(limits()) + 1
