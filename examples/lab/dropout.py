"""What does dropout do to mean and variance, and to a batch norm behind it?"""

from __future__ import annotations

import math

import numpy as np
import torch
from demonstration import Demonstration, Numbers, Progress, generator, markdown_table, run
from matplotlib.figure import Figure
from torch import Tensor, nn

from ssdnorm.layers.population_statistics import recompute_population_stats
from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import panels, styled

PROBABILITIES = (0.0, 0.1, 0.3, 0.5, 0.7)
MEAN, VARIANCE = 1 / math.sqrt(2 * math.pi), 0.5 - 1 / (2 * math.pi)  # of a ReLU of N(0, 1)
CORRELATIONS = (0.0, 0.1, 0.5)
_VALUES, _INPUTS = 400_000, 64


def expected_moments(p: float, mode: str) -> tuple[float, float]:
    """Mean and variance of a value with mean c and variance v after dropout; q = 1 − p is the share that is kept.

    Inverted scaling: c and (v + c²)/q − c² in training. Scaling at test time: qc and q(v + c²) − q²c² in
    training, qc and q²v in evaluation.
    """
    q, square = 1 - p, VARIANCE + MEAN**2
    return {
        "inverted, training": (MEAN, square / q - MEAN**2),
        "inverted, evaluation": (MEAN, VARIANCE),
        "at test time, training": (q * MEAN, q * square - (q * MEAN) ** 2),
        "at test time, evaluation": (q * MEAN, q**2 * VARIANCE),
    }[mode]


def variance_shift(p: float, *, correlation: float = 0.0, alignment: float = 0.0) -> float:
    r"""Variance in evaluation over variance in training of :math:`\sum_i w_i x_i` behind inverted dropout on the x.

    .. math:: \Delta = \frac{v + \rho v a}{(v + c^2)/q - c^2 + \rho v a}
              \qquad a = \frac{(\sum_i w_i)^2 - \sum_i w_i^2}{\sum_i w_i^2}

    with mean c, variance v and pairwise correlation ρ of the x, and q = 1 − p.

    Args:
        alignment: a, which is d cos² θ − 1 for d weights at the angle θ from equal ones; between −1 and d − 1.

    Sources:
        X. Li et al. (arXiv:1801.05134); derived here for ReLUs of N(0, 1).
    """
    common = correlation * VARIANCE * alignment
    return (VARIANCE + common) / ((VARIANCE + MEAN**2) / (1 - p) - MEAN**2 + common)


def measure_dropout(
    *,
    seed: int = 0,
    num_seeds: int = 3,
    probabilities: tuple[float, ...] = PROBABILITIES,
    progress: Progress = list,
) -> Numbers:
    """Moments by p, variance shift by p and correlation, and what networks cost with dropout before or after a norm."""
    moments = {f"{p:g}": _moments(p, generator(seed)) for p in probabilities}
    shifts = {
        f"{rho:g}": {f"{p:g}": _shift(p, rho, generator(seed)) for p in probabilities}
        for rho in progress(list(CORRELATIONS))
    }
    training = {}
    for p in progress(list(probabilities)):
        rows = [_train_both(p, s) for s in range(seed, seed + num_seeds)]
        training[f"{p:g}"] = {key: [row[key] for row in rows] for key in rows[0]}
    return {"seed": seed, "moments": moments, "shifts": shifts, "training": training}


def _moments(p: float, stream: torch.Generator) -> Numbers:
    x = torch.randn(_VALUES, generator=stream).relu()
    kept = (torch.rand(_VALUES, generator=stream) >= p).float()
    found = {
        "inverted, training": x * kept / (1 - p),
        "inverted, evaluation": x,
        "at test time, training": x * kept,
        "at test time, evaluation": x * (1 - p),
    }
    return {
        mode: {"mean": y.mean().item(), "variance": y.var().item(), "expected": expected_moments(p, mode)}
        for mode, y in found.items()
    }


def _shift(p: float, rho: float, stream: torch.Generator) -> dict[str, float]:
    """Measured behind 64 inputs with equal weights; ReLUs of normals that share a part so as to correlate by ρ."""
    shared = _normal_correlation(rho)
    common, own = torch.randn(_VALUES // 8, 1, generator=stream), torch.randn(_VALUES // 8, _INPUTS, generator=stream)
    x = (math.sqrt(shared) * common + math.sqrt(1 - shared) * own).relu()
    kept = (torch.rand(x.shape, generator=stream) >= p).float()
    ratio = x.sum(1).var() / (x * kept / (1 - p)).sum(1).var()
    return {"measured": ratio.item(), "expected": variance_shift(p, correlation=rho, alignment=_INPUTS - 1)}


def _normal_correlation(rho: float) -> float:
    """The correlation of two normals whose ReLUs correlate by ρ, by bisection.

    E[relu(a) relu(b)] = (√(1 − r²) + r (π − arccos r)) / 2π (Cho and Saul, 2009, the arc-cosine kernel of degree 1).
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        r = (low + high) / 2
        product = (math.sqrt(1 - r * r) + r * (math.pi - math.acos(r))) / (2 * math.pi)
        low, high = (r, high) if (product - MEAN**2) / VARIANCE < rho else (low, r)
    return (low + high) / 2


def _train_both(p: float, seed: int) -> dict[str, float]:
    """Final costs of one network with dropout in front of its batch norm, and of one with dropout behind it."""
    stream = generator(seed)
    x = torch.randn(2500, 8, generator=stream)
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3].abs() + (2 * x[:, 3:4]).sin()
    before, after = (_train(_network(p, first, stream), x, y, seed) for first in (True, False))
    costs = {"before": _cost(before, x, y), "after": _cost(after, x, y)}
    captured: list[Tensor] = []
    norm = before.get_submodule("norm")
    handle = norm.register_forward_hook(lambda _, args, output: captured.append((output - norm.bias) / norm.weight))
    _cost(before, x, y)
    handle.remove()
    costs["variance_behind_the_norm"] = captured[0].detach().var(0).mean().item()
    recompute_population_stats(before, x[:2000].split(500), 2000)
    return costs | {"before, recomputed": _cost(before, x, y)}


def _network(p: float, dropout_first: bool, stream: torch.Generator) -> nn.Sequential:
    network = nn.Sequential()
    network.add_module("fc1", nn.Linear(8, 64))
    network.add_module("relu1", nn.ReLU())
    if dropout_first:
        network.add_module("dropout", nn.Dropout(p))
    network.add_module("fc2", nn.Linear(64, 64))
    network.add_module("norm", nn.BatchNorm1d(64))
    network.add_module("relu2", nn.ReLU())
    if not dropout_first:
        network.add_module("dropout", nn.Dropout(p))
    network.add_module("fc3", nn.Linear(64, 1))
    for name in ("fc1", "fc2", "fc3"):
        linear = network.get_submodule(name)
        nn.init.kaiming_normal_(linear.get_parameter("weight"), generator=stream)
        nn.init.zeros_(linear.get_parameter("bias"))
    return network


def _train(network: nn.Sequential, x: Tensor, y: Tensor, seed: int, steps: int = 600) -> nn.Sequential:
    stream = generator(seed)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout draws from the global stream
        for _ in range(steps):
            chosen = torch.randint(2000, (50,), generator=stream)
            optimizer.zero_grad()
            (network.train()(x[chosen]) - y[chosen]).square().mean().backward()
            optimizer.step()
    return network


@torch.no_grad()
def _cost(network: nn.Module, x: Tensor, y: Tensor) -> float:
    return ((network.eval()(x[2000:]) - y[2000:]).square().mean() / y[2000:].var()).item()


@styled
def draw_dropout(numbers: Numbers) -> dict[str, Figure]:
    """Two figures: variance shift by p, and cost of training by p."""
    return {"shift": _draw_shift(numbers), "training": _draw_training(numbers)}


def _draw_shift(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 1, height=3.3)
    place, line, ps = axes[0, 0], np.linspace(0, 0.8, 81), _probabilities(numbers)
    for (rho, row), colour in zip(
        numbers["shifts"].items(), (COLORS["orange"], COLORS["ochre"], COLORS["green"]), strict=True
    ):
        expected = [variance_shift(p, correlation=float(rho), alignment=_INPUTS - 1) for p in line]
        place.plot(line, expected, color=colour, label=f"64 inputs, equal weights, correlation {rho}")
        place.plot(ps, [row[f"{p:g}"]["measured"] for p in ps], "o", color=colour)
    place.set(xlabel="p, probability of a zero", ylabel="evaluation / training", ylim=(0, 1.05))
    place.set_title("Variance in front of a batch norm (dots: measured)")
    place.legend(loc="lower left")
    return figure


def _draw_training(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 1, height=3.4)
    place, ps = axes[0, 0], _probabilities(numbers)
    labels = {
        "before": ("dropout in front of the norm", COLORS["orange"], "o-"),
        "before, recomputed": ("the same, statistics recomputed without dropout", COLORS["ink"], "s--"),
        "after": ("dropout behind the norm", COLORS["blue"], "o-"),
    }
    for key, (words, colour, style) in labels.items():
        costs = np.array([numbers["training"][f"{p:g}"][key] for p in ps])
        place.plot(ps, costs.mean(1), style, color=colour, label=words)
        place.fill_between(ps, costs.min(1), costs.max(1), color=colour, alpha=0.15, linewidth=0)
    place.set(xlabel="p, probability of a zero", ylabel="squared error / variance of y", ylim=(0, None))
    place.set_title("Cost in evaluation, mean and range of seeds")
    place.legend(loc="upper left")
    return figure


def _probabilities(numbers: Numbers) -> list[float]:
    return [float(p) for p in numbers["moments"]]


def tables(numbers: Numbers) -> str:
    """Moments at p = 0.5, shifts by correlation, costs by place of dropout."""
    moments = [
        [mode, row["mean"], row["expected"][0], row["variance"], row["expected"][1]]
        for mode, row in numbers["moments"]["0.5"].items()
    ]
    shifts = [
        [f"correlation {rho}", *(x for p in ("0.5", "0.7") for x in (row[p]["measured"], row[p]["expected"]))]
        for rho, row in numbers["shifts"].items()
    ]
    labels = {
        "before": "cost, dropout in front of the norm",
        "before, recomputed": "cost, the same with statistics recomputed without dropout",
        "after": "cost, dropout behind the norm",
        "variance_behind_the_norm": "variance behind the norm in evaluation, dropout in front of it",
    }
    training = numbers["training"]
    costs = [[words, *(float(np.mean(row[key])) for row in training.values())] for key, words in labels.items()]
    shift_header = ["variance, evaluation / training", "p = 0.5", "closed form", "p = 0.7", "closed form"]
    return "\n\n".join(
        [
            markdown_table(["p = 0.5", "mean", "closed form", "variance", "closed form"], moments),
            markdown_table(shift_header, shifts),
            markdown_table(["mean over seeds", *(f"p = {p}" for p in training)], costs),
        ]
    )


DEMONSTRATION = Demonstration("dropout", __doc__, measure_dropout, draw_dropout, tables)

if __name__ == "__main__":
    raise SystemExit(run(DEMONSTRATION))
