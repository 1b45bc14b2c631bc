"""The pages of docs/lab: figures are there and small, tables and prose hold the numbers of the JSON."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from statistics import mean, pvariance

import pytest

from examples.lab.catalogue import DEMONSTRATIONS
from examples.lab.deep_mlp import SATURATED

FOLDER = Path(__file__).parents[3] / "docs" / "lab"
PAGES = {name: (FOLDER / f"{name}.md") for name in DEMONSTRATIONS}
HEADINGS = ["What is asked", "What is seen", "What this does not show", "Sources"]


def json_of(name):
    return json.loads((FOLDER / "figures" / f"{name}.json").read_text(encoding="utf-8"))


def prose_of(name):
    seen = PAGES[name].read_text(encoding="utf-8").split("## What is seen")[1].split("\n## ")[0]
    return " ".join(re.sub(r"^\|.*\|$|`[^`]*`", "", seen, flags=re.MULTILINE).split())


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
    known = numbers_in(json_of(name))
    rows = re.findall(r"^\|.*\|$", PAGES[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
    quoted = re.findall(r"(?<![\w.])−?\d+\.\d+(?![\w.])", "\n".join(rows))
    for words in quoted:
        digits = len(words.split(".")[1])
        value = float(words.replace("−", "-"))
        assert any(abs(value - n) <= 0.501 * 10**-digits for n in known), f"{words} is not in {name}.json"


def rms(numbers, arm, step):
    return numbers["arms"][arm]["rms"][numbers["moments"].index(step)]


def idle(numbers, arm, step):
    return numbers["arms"][arm]["idle"][numbers["moments"].index(step)]


def final_cost_ratio(numbers, lower, higher):
    return numbers["arms"][higher]["final_cost"] / numbers["arms"][lower]["final_cost"]


def seeds_where_tanh_is_best_with_norm(numbers):
    last = {name: [costs[-1] for costs in arm["cost"]] for name, arm in numbers["arms"].items()}
    others = zip(last["tanh, N(0, 1) weights"], last["tanh, scaled weights"], strict=True)
    return sum(cost < min(pair) for cost, pair in zip(last["tanh, with batch norm"], others, strict=True))


def noise_ratios(numbers):
    noise = [row["expected_noise"] for row in numbers["warm_up"].values()]
    return [more / less for less, more in pairwise(noise)]


def seeds_made_worse(numbers, p):
    row = numbers["training"][p]
    pairs = zip(row["before, recomputed"], row["before"], strict=True)
    return ", ".join(str(seed) for seed, (recomputed, before) in enumerate(pairs) if recomputed > before)


def front_over_behind(numbers, p):
    return mean(numbers["training"][p]["before"]) / mean(numbers["training"][p]["after"])


def evaluation(numbers, name, step):
    return numbers["training"][name]["eval"][numbers["steps"].index(step)]


def median(numbers, layer):
    return numbers["layers"][layer]["median"]


def tap(numbers, name):
    return numbers["taps"][name]["distance"]["2"]


FOUR_TAPS = ("conv4_3", "fc7", "conv8_2", "conv9_2")
RELU, RELU_NORM, RELU_SCALED = "ReLU, N(0, 1) weights", "ReLU, with batch norm", "ReLU, scaled weights"
TANH, TANH_NORM, TANH_SCALED = "tanh, N(0, 1) weights", "tanh, with batch norm", "tanh, scaled weights"

# page: words that stand under "What is seen", and the numbers in them from the page's JSON
PROSE = {
    "deep-mlp": [
        ("√(30 / 2) = {:.1f} a layer", lambda n: [math.sqrt(30 / 2)]),
        ("From {:.0f} in layer 1 to {:.0f} in layer 7", lambda n: [rms(n, RELU, 0)[0], round(rms(n, RELU, 0)[-1], -2)]),
        (
            "{:.2f} of the outputs of the first layer and {:.2f} of the last lie beyond ±{} (dotted)",
            lambda n: [idle(n, TANH, 0)[0], idle(n, TANH, 0)[-1], SATURATED],
        ),
        ("the slope is below {:.2f}", lambda n: [1 - SATURATED**2]),
        ("shrinks to {:.2f} of its size in ten steps", lambda n: [rms(n, RELU, 10)[-1] / rms(n, RELU, 0)[-1]]),
        (
            "between {:.1f} and {:.1f} in ten steps",
            lambda n: [min(rms(n, RELU_NORM, 10)), max(rms(n, RELU_NORM, 10))],
        ),
        (
            "between {:.1f} and {:.1f} after 300",
            lambda n: [min(rms(n, RELU_NORM, 300)), max(rms(n, RELU_NORM, 300))],
        ),
        (
            "{:.0f} in layer 1, of {:.0f} in layer 2, of {:.1f} from layer 4 on",
            lambda n: [*rms(n, TANH_NORM, 1)[:2], max(rms(n, TANH_NORM, 1)[3:])],
        ),
        ("only the last layer still widens, to {:.2f}", lambda n: [rms(n, TANH_NORM, 300)[-1]]),
        (
            "start tanh between {:.2f} and {:.2f}",
            lambda n: [min(rms(n, TANH_SCALED, 0)[1:]), max(rms(n, TANH_SCALED, 0)[1:])],
        ),
        ("batch norm still ends {:.0f} times lower", lambda n: [final_cost_ratio(n, RELU_NORM, RELU_SCALED)]),
        (
            "is {:.0f} times higher ({} against {})",
            lambda n: [
                n["arms"][RELU_NORM]["best_lr"] / n["arms"][RELU_SCALED]["best_lr"],
                n["arms"][RELU_NORM]["best_lr"],
                n["arms"][RELU_SCALED]["best_lr"],
            ],
        ),
        (
            "best of the three in {} of {} seeds",
            lambda n: [seeds_where_tanh_is_best_with_norm(n), n["num_seeds"]],
        ),
        ("({:.2f} of the first, as many as after ten steps)", lambda n: [idle(n, RELU_NORM, 300)[0]]),
        ("({:.2f} of the first, as many as after ten steps)", lambda n: [idle(n, RELU_NORM, 10)[0]]),
        ("{:.2f} of the outputs of the first tanh layer", lambda n: [idle(n, TANH_NORM, 1)[0]]),
        ("{:.2f} of the outputs of the first tanh layer", lambda n: [idle(n, TANH_NORM, 300)[0]]),
    ],
    "moving-average": [
        (
            "With decay 0.999 the mean has reached {:.1f} of 3 after 1000 steps and the variance {:.1f} of 4",
            lambda n: [n["warm_up"]["0.999"][moment][-1] for moment in ("mean", "variance")],
        ),
        ("both need {} steps until 1 %", lambda n: [n["warm_up"]["0.999"]["steps_to_one_percent"]]),
        (
            "ten times the memory, {:.1f} to {:.1f} times the noise",
            lambda n: [min(noise_ratios(n)), max(noise_ratios(n))],
        ),
        (
            "variance {} over n and {:.2f} over n − 1",
            lambda n: [pvariance([1, 2, 3, 6]), n["first_step_on_1_2_3_6"]["Caffe"][1]],
        ),
        (
            "{:.2f} of it for two values, {:.2f} for 32",
            lambda n: [n["small_batches"][s]["biased"] for s in ("2", "32")],
        ),
        ("ends {:.0f} times worse than a constant", lambda n: [evaluation(n, "forgotten", 1000)]),
        (
            "hundred steps: {:.0f} times worse than a constant, while training is at {:.2f}",
            lambda n: [evaluation(n, "0.999", 100), n["training"]["0.999"]["train"][n["steps"].index(100)]],
        ),
    ],
    "train-eval-gap": [
        ("eval mode sees ±{:.2f} instead", lambda n: [n["fits"]["1e5 and 2e5"]["0.1"]["normalised"]["eval"][1]]),
        ("(0.5 · (1 − 1/√2))² = {:.4f}", lambda n: [n["fits"]["1e5 and 2e5"]["0.1"]["eval"][-1]]),
        (
            "With 1 and 2e13 the error in eval mode is {:.0f}e25; with any other momentum it is the same {:.4f}",
            lambda n: [
                n["fits"]["1 and 2e13"]["0"]["eval"][-1] / 1e25,
                max(n["fits"]["1 and 2e13"][m]["eval"][-1] for m in ("0.1", "1", "None")),
            ],
        ),
        ("At n = 32 the factor is {:.3f}", lambda n: [math.sqrt(32 / 31)]),
        ("({:.2f} here, which eps lets through", lambda n: [n["batches"]["2"]["gradient"]]),
        ("−{:.1f}e8 here", lambda n: [-n["extremes"]["apart_by_1e5_at_2e13"][0] / 1e8]),
    ],
    "batch-size": [
        (
            "at 32, the size of training, {:.3f} are right",
            lambda n: [n["networks"]["batch norm"]["by_size"]["32"]["accuracy_mixed"]],
        ),
        (
            "moves by {:.2f} of its length in batches of 2, at least {:.1f} times as far",
            lambda n: [tap(n, "conv11_2"), tap(n, "conv11_2") / max(tap(n, name) for name in FOUR_TAPS)],
        ),
    ],
    "dropout": [
        ("in evaluation {:.3f} times as much", lambda n: [n["shifts"]["0"]["0.5"]["expected"]]),
        (
            "{:.2f} for independent inputs, {:.2f} at ρ = 0.1 and {:.2f} at ρ = 0.5",
            lambda n: [n["shifts"][rho]["0.7"]["measured"] for rho in ("0", "0.1", "0.5")],
        ),
        (
            "has variance {:.2f} at p = 0.7, not 1, close to the {:.2f} above",
            lambda n: [mean(n["training"]["0.7"]["variance_behind_the_norm"]), n["shifts"]["0"]["0.7"]["measured"]],
        ),
        (
            "costs {:.1f} times as much at p = 0.1, {:.1f} times at 0.5 and {:.1f} times at 0.7",
            lambda n: [front_over_behind(n, p) for p in ("0.1", "0.5", "0.7")],
        ),
        ("at 0.5 not in every seed: seed {} gets worse", lambda n: [seeds_made_worse(n, "0.5")]),
    ],
    "l2norm": [
        ("{:.0f} times longer than conv5_3", lambda n: [median(n, "conv4_3") / median(n, "conv5_3")]),
        ("{:.0f} times longer than fc7", lambda n: [median(n, "conv4_3") / median(n, "fc7")]),
        ("{:.2f} a channel", lambda n: [n["layers"]["conv4_3 after L2Norm"]["rms_a_channel"]]),
        (
            "within conv4_3 lengths differ by a factor of {:.1f}",
            lambda n: [n["layers"]["conv4_3"]["percentile_95"] / n["layers"]["conv4_3"]["percentile_5"]],
        ),
        ("it is {:.0f} times less than conv4_3 has", lambda n: [median(n, "conv4_3") / 20]),
        (
            "at {:.0f} % of them a single channel is enough",
            lambda n: [100 * n["layers"]["conv4_3"]["share_one_square_beyond_float16"]],
        ),
        (
            "a root mean square of {:.1f}; conv4_3 has {:.0f}",
            lambda n: [n["formula"]["largest_rms_of_512_channels_in_float16"], n["layers"]["conv4_3"]["rms_a_channel"]],
        ),
    ],
}


@pytest.mark.parametrize(("name", "words", "values"), [(name, *row) for name, rows in PROSE.items() for row in rows])
def test_a_number_in_the_prose_is_what_the_json_gives(name, words, values):
    assert words.format(*values(json_of(name))) in prose_of(name)


@pytest.mark.parametrize("name", PAGES)
def test_a_number_in_the_prose_that_no_row_checks_is_a_setting(name):
    prose, numbers = prose_of(name), json_of(name)
    for words, values in PROSE[name]:
        prose = prose.replace(words.format(*values(numbers)), "")
    settings = keys_in(numbers)
    for number in re.findall(r"(?<![\w.])\d+\.\d+|\d+ times", prose):
        assert number in settings, f"{name}: no row of PROSE checks {number}"


def keys_in(value):
    if isinstance(value, dict):
        return set(value).union(*(keys_in(item) for item in value.values()))
    return set()
