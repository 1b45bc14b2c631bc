"""What do the decay, the framework's convention and a forgotten update do to batch norm's averages?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from demonstration import Demonstration, Numbers, Progress, generator, markdown_table, run
from matplotlib.figure import Figure
from torch import Tensor, nn

from ssdnorm.layers.batch_norm import momentum_from_tensorflow
from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import logarithmic, panels, styled

MEAN, STD, BATCH = 3.0, 2.0, 32
DECAYS = (0.5, 0.9, 0.99, 0.999)
BATCH_SIZES = (2, 4, 8, 16, 32)
_COLOURS = dict(zip(DECAYS, (COLORS["violet"], COLORS["blue"], COLORS["green"], COLORS["ochre"]), strict=True))
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


def measure_moving_average(*, seed: int = 0, streams: int = 400, progress: Progress = list) -> Numbers:
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
    return {
        "seed": seed,
        "steps": _MOMENTS,
        "warm_up": warm_up,
        "small_batches": small,
        "first_step_on_1_2_3_6": first,
        "training": _train_all(seed, progress),
    }


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


@styled
def draw_moving_average(numbers: Numbers) -> dict[str, Figure]:
    """Two figures: warm-up, and cost in evaluation."""
    return {"warm-up": _draw_warm_up(numbers), "evaluation": _draw_evaluation(numbers)}


def _draw_warm_up(numbers: Numbers) -> Figure:
    figure, axes = panels(2, 2, height=5.6, sharex=True, sharey="row")
    for row, (moment, start, truth) in zip(axes, (("mean", 0, MEAN), ("variance", 1, STD**2)), strict=True):
        for decay, colour in _COLOURS.items():
            measured = numbers["warm_up"][f"{decay:g}"]
            row[0].plot(numbers["steps"], measured[f"one_stream_{moment}"], color=colour)
            row[0].plot(numbers["steps"], measured[f"expected_{moment}"], ":", color=colour)
            corrected = measured[f"one_stream_{moment}_corrected"]
            row[1].plot(numbers["steps"], corrected, color=colour, label=f"decay {decay:g}")
        for place, words in zip(row, (f"started at {start}", "divided by 1 − decay^t"), strict=True):
            place.axhline(truth, color=COLORS["ink"], linewidth=0.8)
            place.set(ylim=(0, 1.5 * truth))
            logarithmic(place, "x")
            place.set_title(f"{moment.capitalize()}, {words}")
        row[0].set_ylabel(f"moving average of the {moment}")
    for place in axes[1]:
        place.set_xlabel("step")
    axes[0, 1].plot([], [], ":", color=COLORS["soft"], label="expected")
    axes[0, 1].legend(loc="lower right")
    return figure


def _draw_evaluation(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 1, height=3.6)
    place = axes[0, 0]
    for name, costs in numbers["training"].items():
        forgotten = name == "forgotten"
        colour, words = (COLORS["pink"], "never updated") if forgotten else (_COLOURS[float(name)], f"decay {name}")
        place.plot(numbers["steps"], costs["eval"], color=colour, label=f"evaluation, {words}")
    place.plot(numbers["steps"], costs["train"], color=COLORS["ink"], linewidth=1, label="training, any of them")
    place.set(xlabel="step", ylabel="squared error / variance of y")
    logarithmic(place, "x")
    logarithmic(place, "y")
    place.set_title("One training, five evaluations")
    place.legend(loc="upper left")
    return figure


def tables(numbers: Numbers) -> str:
    """Warm-up and noise by decay, small batches, conventions, cost in evaluation."""
    ten, hundred = numbers["steps"].index(10), numbers["steps"].index(100)
    warm_up = [
        [
            *(decay, row["mean"][ten], row["expected_mean"][ten], row["variance"][ten], row["expected_variance"][ten]),
            *(row["steps_to_one_percent"], row["noise"], row["expected_noise"]),
        ]
        for decay, row in numbers["warm_up"].items()
    ]
    header = ["decay", "mean after 10 steps", "closed form", "variance after 10 steps", "closed form"]
    header += ["steps until 1 % of the start is left", "noise after 1000 steps", "closed form"]
    small = [[n, row["biased"], row["expected_biased"], row["unbiased"]] for n, row in numbers["small_batches"].items()]
    first = [[name, *map(float, row)] for name, row in numbers["first_step_on_1_2_3_6"].items()]
    costs = [
        [name, *(float(row[mode][at]) for mode in ("train", "eval") for at in (hundred, -1))]
        for name, row in numbers["training"].items()
    ]
    cost_header = ["decay", "training cost, step 100", "step 1000", "evaluation cost, step 100", "step 1000"]
    return "\n\n".join(
        [
            markdown_table(header, warm_up),
            markdown_table(["values, n", "variance over n / true", "closed form", "over n − 1 / true"], small),
            markdown_table(["one step on (1, 2, 3, 6), decay 0.9", "mean", "variance"], first),
            markdown_table(cost_header, costs),
        ]
    )


DEMONSTRATION = Demonstration("moving-average", __doc__, measure_moving_average, draw_moving_average, tables)

if __name__ == "__main__":
    raise SystemExit(run(DEMONSTRATION))
