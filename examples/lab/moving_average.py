"""This file is about batch norm's moving averages: warm-up, noise, three conventions, and no updates at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from examples.lab.demonstration import Numbers, Progress, for_json, generator, in_silence
from examples.lab.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, legend, panels, title
from ssdnorm.layers.batch_norm import momentum_from_tensorflow

MEAN, STD, BATCH = 3.0, 2.0, 32
DECAYS = (0.5, 0.9, 0.99, 0.999)
BATCH_SIZES = (2, 4, 8, 16, 32)
_COLOURS = dict(zip(DECAYS, (SKY, BLUE, GREEN, ORANGE), strict=True))
_MOMENTS = sorted({round(10 ** (i / 10)) for i in range(31)})  # steps 1 … 1000, evenly spaced in the logarithm


@dataclass(frozen=True)
class Convention:
    """How a framework averages batch statistics.

    Attributes:
        decay: share of the old average (TensorFlow's and Keras' momentum, Caffe's moving_average_fraction); PyTorch's
            momentum is 1 − decay.
        unbiased: whether the averaged variance is n / (n − 1) times that of the batch.
        corrected: whether the average starts from nothing and is divided by the sum of its weights, 1 − decay^t;
            otherwise it starts at mean 0 and variance 1.
    """

    decay: float
    unbiased: bool = True
    corrected: bool = False

    def follow(self, batches: Tensor) -> tuple[Tensor, Tensor]:
        """Averages of mean and variance after each batch.

        Shape:
            batches ``(T, …, n)``: T batches of n values; both outputs ``(T, …)``.
        """
        means, variances = batches.mean(-1), batches.var(-1, correction=1 if self.unbiased else 0)
        return self._average(means, start=0.0), self._average(variances, start=1.0)

    def _average(self, statistics: Tensor, *, start: float) -> Tensor:
        average = torch.full_like(statistics[0], 0.0 if self.corrected else start)
        averages, weight = [], 0.0
        for statistic in statistics:
            average = self.decay * average + (1 - self.decay) * statistic
            weight = self.decay * weight + (1 - self.decay)
            averages.append(average / weight if self.corrected else average)
        return torch.stack(averages)


CONVENTIONS = {
    "PyTorch": Convention(0.9),
    "TensorFlow, fused": Convention(0.9),
    "TensorFlow, not fused": Convention(0.9, unbiased=False),
    "Caffe": Convention(0.9, corrected=True),
}


def expected_mean(decay: float, step: int) -> float:
    """What an average that starts at 0 is on average after so many steps: (1 − decay^t) · mean."""
    return (1 - decay**step) * MEAN


def expected_variance(decay: float, step: int) -> float:
    """What an average that starts at 1 is on average after so many steps: decay^t · 1 + (1 − decay^t) · variance."""
    return decay**step + (1 - decay**step) * STD**2


def noise(decay: float, step: int) -> float:
    """Standard deviation of that average over one of a batch's mean: √((1 − d)/(1 + d) · (1 − d^2t))."""
    return math.sqrt((1 - decay) / (1 + decay) * (1 - decay ** (2 * step)))


def measure_moving_average(*, seed: int = 0, streams: int = 400, progress: Progress = in_silence) -> Numbers:
    """Follow streams of batches from N(3, 2²), and train one small network with several decays.

    Args:
        streams: independent ones, for means and standard deviations over them.
    """
    stream = generator(seed)
    batches = MEAN + STD * torch.randn(_MOMENTS[-1], streams, BATCH, generator=stream, dtype=torch.float64)
    at = torch.tensor(_MOMENTS) - 1
    warm_up = {}
    for decay in progress(list(DECAYS)):
        plain, corrected = (Convention(decay, corrected=c).follow(batches) for c in (False, True))
        measured: Numbers = {}
        for name, average, divided in zip(("mean", "variance"), plain, corrected, strict=True):
            measured[f"one_stream_{name}"] = average[at, 0]
            measured[f"one_stream_{name}_corrected"] = divided[at, 0]
            measured[name] = average[at].mean(1)
            measured[f"{name}_corrected"] = divided[at].mean(1)
        warm_up[f"{decay:g}"] = measured | {
            "expected_mean": [expected_mean(decay, step) for step in _MOMENTS],
            "expected_variance": [expected_variance(decay, step) for step in _MOMENTS],
            "noise": (plain[0][-1].std() / (STD / math.sqrt(BATCH))).item(),
            "expected_noise": noise(decay, _MOMENTS[-1]),
            "steps_to_one_percent": math.ceil(math.log(0.01) / math.log(decay)),
        }
    small = {}
    for size in BATCH_SIZES:
        both = [Convention(0.99, unbiased=u).follow(batches[:, :, :size])[1][-1].mean() / STD**2 for u in (True, False)]
        small[str(size)] = {"unbiased": both[0].item(), "biased": both[1].item(), "expected_biased": (size - 1) / size}
    one_batch = torch.tensor([[1.0, 2.0, 3.0, 6.0]], dtype=torch.float64)
    first = {name: [v.item() for v in convention.follow(one_batch)] for name, convention in CONVENTIONS.items()}
    return for_json(
        {
            "seed": seed,
            "steps": _MOMENTS,
            "warm_up": warm_up,
            "small_batches": small,
            "first_step_on_1_2_3_6": first,
            "training": _train_all(seed, progress),
        }
    )


def _train_all(seed: int, progress: Progress) -> Numbers:
    """Cost of the same training in evaluation, by decay; "forgotten" never updates its averages."""
    momenta = {f"{decay:g}": momentum_from_tensorflow(decay) for decay in DECAYS} | {"forgotten": 0.0}
    return {name: _train(momenta[name], seed) for name in progress(list(momenta))}


def _train(momentum: float, seed: int) -> dict[str, list[float]]:
    stream = generator(seed)
    x = 17 * torch.rand(3000, 1, generator=stream) - 7
    y = x.square() - 5 + 2 * torch.randn(3000, 1, generator=stream)
    test_x, test_y = x[2500:], y[2500:]
    parts: list[nn.Module] = []
    for fan_in, fan_out in ((1, 30), (30, 30), (30, 1)):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(linear.weight, generator=stream)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.BatchNorm1d(fan_out, momentum=momentum), nn.ReLU()]
    network = nn.Sequential(*parts[:-2])
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    costs: dict[str, list[float]] = {"train": [], "eval": []}
    for step in range(1, _MOMENTS[-1] + 1):
        chosen = torch.randint(2500, (50,), generator=stream)
        optimizer.zero_grad()
        loss = (network.train()(x[chosen]) - y[chosen]).square().mean()
        loss.backward()
        optimizer.step()
        if step in _MOMENTS:
            with torch.no_grad():
                error = (network.eval()(test_x) - test_y).square().mean()
            costs["train"].append((loss / test_y.var()).item())
            costs["eval"].append((error / test_y.var()).item())
    return costs


def draw_moving_average(numbers: Numbers) -> dict[str, Figure]:
    """Four figures: warm-up, warm-up against noise, variance in small batches, cost in evaluation."""
    return {
        "warm-up": _draw_warm_up(numbers),
        "trade-off": _draw_trade_off(numbers),
        "variance": _draw_variance(numbers),
        "evaluation": _draw_evaluation(numbers),
    }


def _draw_warm_up(numbers: Numbers) -> Figure:
    figure, axes = panels(2, 2, 5.6, sharex=True, sharey="row")
    for row, (moment, start, truth) in zip(axes, (("mean", 0, MEAN), ("variance", 1, STD**2)), strict=True):
        for decay, colour in _COLOURS.items():
            measured = numbers["warm_up"][f"{decay:g}"]
            row[0].plot(numbers["steps"], measured[f"one_stream_{moment}"], color=colour)
            row[0].plot(numbers["steps"], measured[f"expected_{moment}"], ":", color=colour)
            corrected = measured[f"one_stream_{moment}_corrected"]
            row[1].plot(numbers["steps"], corrected, color=colour, label=f"decay {decay:g}")
        for place, words in zip(row, (f"started at {start}", "divided by 1 − decay^t"), strict=True):
            place.axhline(truth, color=BLACK, linewidth=0.8)
            place.set(xscale="log", ylim=(0, 1.5 * truth))
            title(place, f"{moment.capitalize()}, {words}")
        row[0].set_ylabel(f"moving average of the {moment}")
    for place in axes[1]:
        place.set_xlabel("step")
    axes[0, 1].plot([], [], ":", color=GREY, label="expected")
    legend(axes[0, 1], loc="lower right")
    return figure


def _draw_trade_off(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 2, 3.1)
    shares = [1 - decay for decay in DECAYS]
    rows = [numbers["warm_up"][f"{decay:g}"] for decay in DECAYS]
    line = np.geomspace(0.0007, 0.7, 100)
    axes[0, 0].plot(line, np.log(0.01) / np.log(1 - line), color=BLUE)
    axes[0, 0].plot(shares, [row["steps_to_one_percent"] for row in rows], "o", color=BLUE)
    axes[0, 0].set(ylabel="steps", yscale="log")
    title(axes[0, 0], "Until 1 % of the start is left")
    axes[0, 1].plot(line, np.sqrt(line / (2 - line)), color=BLUE, label="√((1 − d) / (1 + d))")
    axes[0, 1].plot(shares, [row["noise"] for row in rows], "o", color=RED, label="measured after 1000 steps")
    axes[0, 1].set(ylabel="std / std of one batch's mean", yscale="log")
    title(axes[0, 1], "Noise of the average")
    legend(axes[0, 1])
    for place in axes[0]:
        place.set(xscale="log", xlabel="decay d")
        place.set_xticks(shares, [f"{decay:g}" for decay in DECAYS])
        place.minorticks_off()
        place.invert_xaxis()
    axes[0, 1].set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    return figure


def _draw_variance(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 1, 3.0)
    place, measured = axes[0, 0], numbers["small_batches"]
    line = np.geomspace(2, 32, 100)
    place.plot(line, (line - 1) / line, color=ORANGE, label="expected, variance over n")
    place.axhline(1.0, color=BLUE, label="expected, variance over n − 1")
    for key, colour in (("biased", ORANGE), ("unbiased", BLUE)):
        place.plot(BATCH_SIZES, [measured[str(n)][key] for n in BATCH_SIZES], "o", color=colour)
    place.set(xlabel="values in the batch, n", ylabel="average / true variance", xscale="log", ylim=(0.4, 1.1))
    place.set_xticks(BATCH_SIZES, map(str, BATCH_SIZES))
    place.minorticks_off()
    title(place, "Where the moving average of the variance ends (dots: measured)")
    legend(place, loc="lower right")
    return figure


def _draw_evaluation(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 1, 3.6)
    place = axes[0, 0]
    for name, costs in numbers["training"].items():
        forgotten = name == "forgotten"
        colour, words = (PINK, "never updated") if forgotten else (_COLOURS[float(name)], f"decay {name}")
        place.plot(numbers["steps"], costs["eval"], color=colour, label=f"evaluation, {words}")
    place.plot(numbers["steps"], costs["train"], color=BLACK, linewidth=1, label="training, any of them")
    place.set(xlabel="step", ylabel="squared error / variance of y", xscale="log", yscale="log")
    title(place, "One training, five evaluations")
    legend(place, loc="upper left")
    return figure
