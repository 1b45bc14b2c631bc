"""What does batch norm do for seven hidden layers with badly scaled weights?"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from demonstration import Demonstration, Numbers, Progress, generator, markdown_table, run
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import logarithmic, panels, styled

LAYERS, UNITS, NOISE_STD = 7, 30, 2.0
SATURATED = 0.99  # of tanh's largest value
LEARNING_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10)
_TRAIN, _TEST, _BATCH = 2500, 500, 50
_MOMENTS = (0, 1, 3, 10, 30, 100)  # steps after which the layers are looked into, and after the last
_EDGES = np.linspace(-15, 15, 77)  # of asinh(pre-activation): ±1.6 million


@dataclass(frozen=True)
class Arm:
    """A network: its activation, whether a batch norm precedes it, and whether weights are N(0, 1) or scaled."""

    activation: str
    words: str
    norm: bool
    scaled: bool

    def weight_std(self, fan_in: int) -> float:
        """1, or what keeps the second moment: √(2/n) for ReLU (He et al.), √(1/n) for tanh (LeCun et al.)."""
        gain = 2.0 if self.activation == "ReLU" else 1.0
        return math.sqrt(gain / fan_in) if self.scaled else 1.0


ARMS = {
    f"{activation}, {words}": Arm(activation, words, norm, scaled)
    for activation, (words, norm, scaled) in product(
        ("ReLU", "tanh"),
        (("N(0, 1) weights", False, False), ("with batch norm", True, False), ("scaled weights", False, True)),
    )
}
_CAPTIONS = {"rms": "root mean square, median over seeds", "idle": "share of idle units, mean over seeds"}
_COLOURS = {"N(0, 1) weights": COLORS["orange"], "with batch norm": COLORS["blue"], "scaled weights": COLORS["ochre"]}


def measure_deep_mlp(
    *,
    seed: int = 0,
    num_seeds: int = 5,
    steps: int = 300,
    learning_rates: tuple[float, ...] = LEARNING_RATES,
    progress: Progress = list,
) -> Numbers:
    """Train every arm with every learning rate and seed on y = x² − 5 + noise.

    The cost is the mean squared error on unseen points over the variance of y there: 1 is what a constant reaches. An
    idle unit is a ReLU that is 0 on all unseen points; for tanh it is the share of |outputs| above ``SATURATED``.
    Costs are those of eval mode; pre-activations and idle units those of train mode, the unseen points as one batch.

    Args:
        seed: the first; data, weights and batches of a seed are the same for all arms.
        steps: of plain gradient descent on batches of 50.

    Returns:
        By arm, for the learning rate with the lowest median final cost: by step of ``moments`` and layer ``idle`` (mean
        over seeds), ``rms`` (median over seeds) and ``histograms`` (of all seeds together).
    """
    runs: dict[str, dict[float, list[dict[str, Any]]]] = {name: {} for name in ARMS}
    for name, lr in progress(list(product(ARMS, learning_rates))):
        runs[name][lr] = [_train(ARMS[name], lr, steps, s) for s in range(seed, seed + num_seeds)]
    arms = {}
    for name, by_rate in runs.items():
        final = {lr: [run["cost"] for run in some] for lr, some in by_rate.items()}
        best = min(final, key=lambda lr: np.nan_to_num(np.median(final[lr]), nan=np.inf))
        some = by_rate[best]
        arms[name] = {
            "final_cost_by_lr": {f"{lr:g}": costs for lr, costs in final.items()},
            "best_lr": best,
            "final_cost": float(np.median(final[best])),
            "idle": np.mean([run["idle"] for run in some], 0).tolist(),
            "rms": np.median([run["rms"] for run in some], 0).tolist(),
            "histograms": np.sum([run["histograms"] for run in some], 0).tolist(),
        }
    floor = NOISE_STD**2 / _points(_TEST, generator(seed))[1].var().item()
    about = {"seed": seed, "num_seeds": num_seeds, "steps": steps, "moments": _moments(steps), "noise_floor": floor}
    return about | {"arms": arms}


def _moments(steps: int) -> list[int]:
    return [moment for moment in _MOMENTS if moment < steps] + [steps]


def _points(count: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    x = 17 * torch.rand(count, 1, generator=stream) - 7
    return x, x.square() - 5 + NOISE_STD * torch.randn(count, 1, generator=stream)


def _network(arm: Arm, stream: torch.Generator) -> nn.Sequential:
    parts: list[nn.Module] = []
    for fan_in in [1] + [UNITS] * LAYERS:
        linear = nn.Linear(fan_in, UNITS if len(parts) < 3 * LAYERS else 1)
        nn.init.normal_(linear.weight, 0.0, arm.weight_std(fan_in), generator=stream)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.BatchNorm1d(UNITS) if arm.norm else nn.Identity()]
        parts += [nn.ReLU() if arm.activation == "ReLU" else nn.Tanh()]
    return nn.Sequential(*parts[:-2])  # the last linear layer has neither norm nor activation


def _train(arm: Arm, lr: float, steps: int, seed: int) -> dict[str, Any]:
    stream = generator(seed)
    test_x, test_y = _points(_TEST, stream)
    x, y = _points(_TRAIN, stream)
    network = _network(arm, stream)
    optimizer = torch.optim.SGD(network.parameters(), lr)
    seen, cost = [pre_activations(network, test_x)], math.nan
    for step in range(1, steps + 1):
        chosen = torch.randint(_TRAIN, (_BATCH,), generator=stream)
        optimizer.zero_grad()
        (network.train()(x[chosen]) - y[chosen]).square().mean().backward()
        optimizer.step()
        if step in _moments(steps):
            seen.append(pre_activations(network, test_x))
        if step % 10 == 0:
            with torch.no_grad():
                error = (network.eval()(test_x) - test_y).square().mean()
            cost = (error / test_y.var()).item()
            if not math.isfinite(cost):
                break
    seen += [pre_activations(network, test_x)] * (len(_moments(steps)) - len(seen))  # of a network that diverged
    return {
        "cost": cost,
        "idle": [_idle(arm, layers) for layers in seen],
        "rms": [[z.square().mean().sqrt().item() for z in layers] for layers in seen],
        "histograms": [[np.histogram(z.asinh().numpy(), _EDGES)[0] for z in layers] for layers in seen],
    }


@torch.no_grad()
def pre_activations(network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The input of each activation in train mode, where a batch norm takes the statistics of ``x``.

    Runs a copy, so that the network's running statistics and mode stay as they are.
    """
    found = []
    for part in copy.deepcopy(network).train():
        if isinstance(part, nn.ReLU | nn.Tanh):
            found.append(x)
        x = part(x)
    return found


def _idle(arm: Arm, pre_activations: list[Tensor]) -> list[float]:
    if arm.activation == "ReLU":
        return [(z <= 0).all(0).float().mean().item() for z in pre_activations]
    return [(z.tanh().abs() > SATURATED).float().mean().item() for z in pre_activations]


@styled
def draw_deep_mlp(numbers: Numbers) -> dict[str, Figure]:
    """Two figures: pre-activations by layer, cost by learning rate."""
    return {"pre-activations": _draw_histograms(numbers), "learning-rates": _draw_rates(numbers)}


def _draw_histograms(numbers: Numbers) -> Figure:
    figure, axes = panels(3, 2, height=7.4, sharex=True, sharey=True)
    num_moments = len(numbers["moments"])
    for place, (name, arm) in zip(axes.T.flat, numbers["arms"].items(), strict=True):
        counts = np.array(arm["histograms"], dtype=float).transpose(2, 1, 0)  # height × layer × moment
        shares = np.sqrt(counts / counts.max(0).clip(1))
        with_gaps = np.pad(shares, ((0, 0), (0, 0), (0, 1)))
        columns = np.ma.masked_equal(with_gaps, 0).reshape(len(shares), -1)
        x_edges = 0.5 + (np.arange(columns.shape[1] + 1) + 0.5) / (num_moments + 1)
        colours = LinearSegmentedColormap.from_list("", [COLORS["surface"], _COLOURS[ARMS[name].words]])
        place.pcolormesh(x_edges, _EDGES, columns, cmap=colours, vmin=-0.1, vmax=1)
        place.set_title(f"{name}, lr {arm['best_lr']:g}")
        if ARMS[name].activation == "tanh":
            for end in (-1, 1):
                place.axhline(
                    math.asinh(end * math.atanh(SATURATED)), color=COLORS["ink"], linewidth=0.8, linestyle=":"
                )
    ticks = [-1e4, -100, -1, 1, 100, 1e4]
    axes[0, 0].set_yticks(np.arcsinh(ticks), ["−10⁴", "−100", "−1", "1", "100", "10⁴"])
    axes[0, 0].set(xlim=(0.4, LAYERS + 0.6), ylim=(-12, 12), xticks=range(1, LAYERS + 1))
    for place in axes[:, 0]:
        place.set_ylabel("input of the activation")
    for place in axes[-1]:
        place.set_xlabel("hidden layer")
    moments = ", ".join(map(str, numbers["moments"]))
    figure.supxlabel(f"in each layer from left to right: after {moments} steps, in train mode")
    return figure


def _draw_rates(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 2, height=3.4, sharey=True)
    for place, arm, measured in _by_activation(axes[0], numbers):
        by_rate = {float(lr): np.array(costs, dtype=float) for lr, costs in measured["final_cost_by_lr"].items()}
        rates = [lr for lr, costs in by_rate.items() if np.isfinite(costs).all()]
        medians = [np.median(by_rate[lr]) for lr in rates]
        place.plot(rates, medians, "o-", color=_COLOURS[arm.words], label=arm.words)
        place.set(xlabel="learning rate", ylim=(numbers["noise_floor"] / 2, 1e3))
        logarithmic(place, "x")
        logarithmic(place, "y")
    for place, name in zip(axes[0], ("ReLU", "tanh"), strict=True):
        place.axhline(numbers["noise_floor"], color=COLORS["ink"], linewidth=0.8, linestyle=":", label="noise alone")
        place.set_title(f"{name}: no point where a seed diverged")
    axes[0, 0].set_ylabel(f"squared error / variance of y\nafter {numbers['steps']} steps")
    axes[0, 1].legend(loc="upper right")
    return figure


def _by_activation(axes: np.ndarray, numbers: Numbers) -> list[tuple[Axes, Arm, dict[str, Any]]]:
    places = {"ReLU": axes[0], "tanh": axes[1]}
    return [(places[ARMS[name].activation], ARMS[name], measured) for name, measured in numbers["arms"].items()]


def tables(numbers: Numbers) -> str:
    """Final cost, root mean square of the activations' inputs, and idle units."""
    arms, moments = numbers["arms"], numbers["moments"]
    final = [(name, arm, arm["final_cost_by_lr"][f"{arm['best_lr']:g}"]) for name, arm in arms.items()]
    costs = [[name, f"{arm['best_lr']:g}", arm["final_cost"], min(some), max(some)] for name, arm, some in final]
    header = ["arm", "best learning rate", "cost after training: median", "lowest", "highest of the seeds"]
    steps = [moment for moment in (0, 1, 10, moments[-1]) if moment in moments]

    def by_layer(key: str, layers: dict[str, int], some: Sequence[int], digits: int) -> str:
        rows = [
            [f"{name}: {where}", *(float(arm[key][moments.index(step)][layer]) for step in some)]
            for name, arm in arms.items()
            for where, layer in layers.items()
        ]
        return markdown_table([_CAPTIONS[key], *(f"after {step} steps" for step in some)], rows, digits=digits)

    layers = {"layer 1": 0, f"layer {LAYERS}": -1}
    rms, idle = by_layer("rms", layers, steps, 2), by_layer("idle", layers, (steps[0], steps[-1]), 2)
    return f"{markdown_table(header, costs)}\n\n{rms}\n\n{idle}"


DEMONSTRATION = Demonstration("deep-mlp", __doc__, measure_deep_mlp, draw_deep_mlp, tables)

if __name__ == "__main__":
    raise SystemExit(run(DEMONSTRATION))
