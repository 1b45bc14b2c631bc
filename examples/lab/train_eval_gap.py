"""Why does a batch norm that has learnt two numbers in train mode miss them in eval mode?"""

from __future__ import annotations

import math

import numpy as np
import torch
from demonstration import Demonstration, Numbers, Progress, generator, markdown_table, run
from matplotlib.figure import Figure
from torch import nn

from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import logarithmic, panels, styled

INPUTS = {"1e5 and 2e5": (1e5, 2e5), "1 and 2e13": (1.0, 2e13)}
TARGETS = (1.0, 2.0)
MOMENTA: dict[str, float | None] = {"0": 0.0, "0.1": 0.1, "1": 1.0, "None": None}
BATCH_SIZES = (2, 3, 4, 8, 16, 32, 64)
_STEPS = 200
_COLOURS = dict(zip(MOMENTA, (COLORS["orange"], COLORS["blue"], COLORS["ochre"], COLORS["green"]), strict=True))


def measure_train_eval_gap(*, seed: int = 0, progress: Progress = list) -> Numbers:
    """Fit two numbers through a batch norm with each momentum; then measure what a batch of n values lets through."""
    fits = {
        inputs: {name: fit_two(INPUTS[inputs], momentum, seed=seed) for name, momentum in MOMENTA.items()}
        for inputs in progress(list(INPUTS))
    }
    batches = {str(n): {**gradient_share(n, seed), **best_fit(n, seed)} for n in progress(list(BATCH_SIZES))}
    return {"seed": seed, "fits": fits, "batches": batches}


def fit_two(inputs: tuple[float, float], momentum: float | None, *, seed: int = 0) -> Numbers:
    """Train batch norm and a linear layer to return 1 and 2 for two numbers; evaluate in both modes at every step.

    Returns:
        ``train`` and ``eval``, mean squared errors by step; ``normalised``, what the batch norm gives in both modes.
    """
    x, y = torch.tensor(inputs)[:, None], torch.tensor(TARGETS)[:, None]
    norm, linear = nn.BatchNorm1d(1, momentum=momentum), nn.Linear(1, 1)
    nn.init.normal_(linear.weight, generator=generator(seed))
    nn.init.zeros_(linear.bias)
    network = nn.Sequential(norm, linear)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    losses: dict[str, list[float]] = {"train": [], "eval": []}
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = (network.train()(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            losses["eval"].append((network.eval()(x) - y).square().mean().item())
        losses["train"].append(loss.item())
    with torch.no_grad():
        in_eval = (norm.eval()(x) - norm.bias) / norm.weight
        in_train = nn.BatchNorm1d(1)(x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return {
        **losses,
        "normalised": {"train": in_train.flatten(), "eval": in_eval.flatten()},
        "running_mean": norm.running_mean.item(),
        "running_var": norm.running_var.item(),
    }


def gradient_share(n: int, seed: int) -> dict[str, float]:
    """How much of a random gradient passes a batch norm over n values: length after over length before.

    Batch norm removes the two directions that would move mean and variance, 2 of n.
    """
    stream = generator(seed)
    x = torch.randn(n, 4000, generator=stream, dtype=torch.float64).requires_grad_()
    grad = torch.randn(n, 4000, generator=stream, dtype=torch.float64)
    nn.BatchNorm1d(4000, dtype=torch.float64)(x).backward(grad)
    assert x.grad is not None
    passed = x.grad * x.detach().var(0, correction=0).add(1e-5).sqrt()
    share = (passed.square().sum() / grad.square().sum()).sqrt().item()
    return {"gradient": share, "expected_gradient": math.sqrt((n - 2) / n)}


def best_fit(n: int, seed: int) -> dict[str, float]:
    """Least squared error of y = x, x uniform in [0, 1], through a batch norm over n values and a line.

    In a batch the size of x is lost; what is left is its place among n. The best slope is E s, the mean standard
    deviation of a batch, and the error left is 1/12 − (E s)². In evaluation the place is exact, the slope still E s.
    """
    num_batches = 200_000 // n
    x = torch.rand(n, num_batches, generator=generator(seed), dtype=torch.float64)
    normalised = nn.BatchNorm1d(num_batches, eps=1e-12, dtype=torch.float64)(x).detach()
    slope = (normalised * (x - 0.5)).mean() / normalised.square().mean()
    exact = (x - 0.5) / math.sqrt(1 / 12)
    return {
        "train_error": (x - 0.5 - slope * normalised).square().mean().item(),
        "eval_error": (x - 0.5 - slope * exact).square().mean().item(),
        "slope": slope.item(),
    }


@styled
def draw_train_eval_gap(numbers: Numbers) -> dict[str, Figure]:
    """One figure: error by step in both modes."""
    figure, axes = panels(1, 2, height=3.7)
    for place, (inputs, fits) in zip(axes[0], numbers["fits"].items(), strict=True):
        steps = np.arange(1, _STEPS + 1)
        for name, fit in fits.items():
            style = (0, (4, 4)) if name == "None" else "solid"  # it lies on momentum 1
            words = f"eval mode, momentum {name}"
            place.plot(steps, fit["eval"], color=_COLOURS[name], linestyle=style, label=words)
        place.plot(steps, fits["0.1"]["train"], color=COLORS["ink"], label="train mode, any momentum")
        place.set(xlabel="step", ylim=(1e-6, 1e28 if "13" in inputs else 1e12))
        logarithmic(place, "x")
        logarithmic(place, "y")
        place.set_title(f"Inputs {inputs}")
    axes[0, 0].set_ylabel("squared error")
    axes[0, 1].legend(loc="center right", bbox_to_anchor=(1, 0.58))
    return {"modes": figure}


def tables(numbers: Numbers) -> str:
    """Both modes by momentum, gradient and error by batch size, float32 at its limits."""
    momenta = [
        [f"{name}, inputs {inputs}", *(f"{x:.6g}" for x in values)]
        for inputs, fits in numbers["fits"].items()
        for name, fit in fits.items()
        for values in [[fit["running_mean"], fit["running_var"], fit["normalised"]["eval"][1], fit["eval"][-1]]]
    ]
    batches = [
        [n, row["gradient"], row["expected_gradient"], row["train_error"], row["eval_error"]]
        for n, row in numbers["batches"].items()
    ]
    header = ["momentum", "running mean", "running variance", "larger input, eval mode", "error in eval mode"]
    passed = ["values in the batch", "gradient that passes", "closed form", "error, train mode", "error, eval mode"]
    return f"{markdown_table(header, momenta)}\n\n{markdown_table(passed, batches, digits=4)}"


DEMONSTRATION = Demonstration("train-eval-gap", __doc__, measure_train_eval_gap, draw_train_eval_gap, tables)

if __name__ == "__main__":
    raise SystemExit(run(DEMONSTRATION))
