"""Looks: levels that add up, and what may change after the first."""

import json

import pytest

from ssdnorm.compare.looks import level_of, second_look, spent_alpha
from ssdnorm.compare.planning import read_scatter

from .synthetic import make_plan


def file_of(**keys):
    return make_plan(**keys).file


def report(folder, seeds=(0, 1, 2), verdict="undecided", config=None, **keys):
    arms = [{"verdict": "baseline"}, {"verdict": verdict}]
    keys = {"metric": "AP", "baseline": "l2_norm", "rule": "guarded_t", "margin": None, "looks": None} | keys
    provenance = {"num_finished": 6, "steps": 10, "batch_size": 2, "seconds": 3.0}
    content = {"seeds": list(seeds), "arms": arms, "config": config or {}, "provenance": provenance, **keys}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_spent_levels_add_up_to_alpha_and_rise():
    levels = spent_alpha([3, 5, 8, 12], 0.05)
    assert sum(levels) == pytest.approx(0.05)
    assert levels == sorted(levels)
    assert spent_alpha([5]) == pytest.approx([0.05])


def test_a_look_has_its_own_level_and_a_comparison_without_looks_all_of_it():
    assert level_of(file_of(looks=[3, 5])) == pytest.approx(spent_alpha([3, 5])[0])
    assert level_of(file_of(looks=[2, 3])) == pytest.approx(spent_alpha([2, 3])[1])
    assert level_of(file_of()) == 0.05


def test_seeds_are_added_at_declared_looks_only(tmp_path):
    more = {"seeds": (0, 1, 2, 3, 4)}
    assert second_look(file_of(**more), tmp_path) == "", "nothing is known yet"
    assert second_look(file_of(seeds=(0, 1)), report(tmp_path, seeds=[0], verdict="one seed")) == "", "no verdict"
    with pytest.raises(ValueError, match=r"reports on 3 seeds and declared no looks; .* Declare looks before"):
        second_look(file_of(**more), report(tmp_path))
    assert second_look(file_of(**more, looks=[3, 5]), report(tmp_path, looks=[3, 5])) == ""
    with pytest.raises(ValueError, match=r"looks: declared before .*: \[3, 5\]; got \[3, 5, 8\]"):
        second_look(file_of(looks=[3, 5, 8]), tmp_path)
    with pytest.raises(ValueError, match=r"reports on seeds \[1, 2\], too; seeds can be added"):
        second_look(file_of(seeds=(0, 3, 4, 5)), tmp_path)


def test_what_was_declared_after_verdicts_is_named_and_stays_so(tmp_path):
    changed = file_of(rule="paired_t_holm", margin=0.02, contrasts={"x": [["none", "batch_norm"]]})
    assert second_look(changed, report(tmp_path)) == "rule, margin, contrasts"
    config = {"contrasts": {"x": [["none", "batch_norm"]]}}
    report(tmp_path, rule="paired_t_holm", margin=0.02, config=config, second_look="rule")
    assert second_look(changed, tmp_path) == "rule"
    assert second_look(file_of(), report(tmp_path)) == ""


@pytest.mark.parametrize("content", ["{}", "[1]", "{", '{"seeds": [0], "arms": 3, "config": {}, "provenance": {}}'])
def test_a_file_that_is_no_report_is_refused_by_its_name(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    for read in (lambda: second_look(file_of(), tmp_path), lambda: read_scatter(str(tmp_path), "AP")):
        with pytest.raises(ValueError, match=r"results\.json: damaged.*no report of this library"):
            read()
