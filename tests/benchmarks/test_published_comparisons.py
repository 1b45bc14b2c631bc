"""The published comparisons: the rule declared for them gives the numbers of their tables again."""

import pytest

from benchmarks.published_comparisons import NUM_IMAGES, README, RESULTS, answers, judged, page, read_differences
from ssdnorm.compare.formatting import p_value, signed_interval, signed_points


@pytest.mark.parametrize("name", NUM_IMAGES)
def test_the_declared_rule_gives_the_published_table(name):
    rows = [line.split(" | ") for line in (RESULTS / name / "table.md").read_text(encoding="utf-8").splitlines()]
    published = {row[0].removeprefix("| "): row for row in rows[3:] if len(row) == len(rows[0])}
    differences = read_differences(RESULTS / name)
    findings = judged(differences, "paired_t_holm", 70).findings
    assert published.keys() == differences.keys()
    for arm, row in published.items():
        paired, finding = differences[arm].paired, findings[arm]
        assert row[3] == f"{signed_points(paired.mean)} {signed_interval(paired.low, paired.high)}"
        assert row[5].replace("&lt;", "<") == p_value(finding.p)
        assert row[6].replace("no evidence of a difference", "undecided") == finding.verdict


def test_the_page_and_the_readme_are_what_the_command_makes_of_the_committed_results():
    assert answers() in README.read_text(encoding="utf-8")
    assert (RESULTS / "second_look.md").read_text(encoding="utf-8") == page()
