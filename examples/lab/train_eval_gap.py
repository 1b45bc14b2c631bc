"""This file is about one batch norm on two numbers: what training reaches, and what evaluation then makes of it."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from examples.lab.demonstration import Numbers, Progress, for_json, generator, in_silence
from examples.lab.figures import BLACK, BLUE, GREEN, ORANGE, RED, legend, panels, title
from ssdnorm.layers.batch_norm import check_batch_statistics

INPUTS = {"1e5 and 2e5": (1e5, 2e5), "1 and 2e13": (1.0, 2e13)}
TARGETS = (1.0, 2.0)
MOMENTA: dict[str, float | None] = {"0": 0.0, "0.1": 0.1, "1": 1.0, "None": None}
BATCH_SIZES = (2, 3, 4, 8, 16, 32, 64)
_STEPS = 200
_COLOURS = dict(zip(MOMENTA, (RED, BLUE, ORANGE, GREEN), strict=True))


def measure_train_eval_gap(*, seed: int = 0, progress: Progress = in_silence) -> Numbers:
    """Fit two numbers through a batch norm with each momentum; then see what a batch of n values lets through."""
    fits = {
        inputs: {name: fit_two(INPUTS[inputs], momentum, seed=seed) for name, momentum in MOMENTA.items()}
        for inputs in progress(list(INPUTS))
    }
    batches = {str(n): {**gradient_share(n, seed), **best_fit(n, seed)} for n in progress(list(BATCH_SIZES))}
    return for_json({"seed": seed, "fits": fits, "batches": batches, "extremes": extremes()})


def fit_two(inputs: tuple[float, float], momentum: float | None, *, seed: int = 0) -> Numbers:
    """Train batch norm and a linear layer to give 1 and 2 for two numbers, and read it in both modes at every step.

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

    The batch norm takes the two directions out that would move mean and variance, 2 of n.
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


def extremes() -> Numbers:
    """What float32 makes of large inputs, and what is refused."""
    x, y = torch.tensor([[1.0], [2e13]]), torch.tensor(TARGETS)[:, None]
    linear = nn.Linear(1, 1)
    nn.init.ones_(linear.weight)
    nn.init.zeros_(linear.bias)
    network = nn.Sequential(nn.BatchNorm1d(1), linear).eval()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(repr(loss.item()))
    return {
        "losses_when_trained_in_eval_mode": losses,
        "apart_by_1e5_at_2e13": _normalised([2e13, 2e13 + 1e5]),
        "apart_by_1e5_at_2e13_in_float64": _normalised([2e13, 2e13 + 1e5], torch.float64),
        "0_and_1e19": _normalised([0.0, 1e19]),
        "0_and_1e20": _normalised([0.0, 1e20]),
        "batch_of_one": _refusal(),
    }


def _normalised(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
    return nn.BatchNorm1d(1, dtype=dtype)(torch.tensor(values, dtype=dtype)[:, None]).detach().flatten()


def _refusal() -> str:
    try:
        check_batch_statistics(nn.Sequential(nn.BatchNorm1d(1)), (1, 1))
    except ValueError as error:
        return str(error)
    raise AssertionError("a batch of one passed")


def draw_train_eval_gap(numbers: Numbers) -> dict[str, Figure]:
    """Two figures: error by step in both modes, and what a batch of n lets through."""
    return {"modes": _draw_modes(numbers), "batches": _draw_batches(numbers)}


def _draw_modes(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 2, 3.7)
    for place, (inputs, fits) in zip(axes[0], numbers["fits"].items(), strict=True):
        steps = np.arange(1, _STEPS + 1)
        for name, fit in fits.items():
            style = (0, (4, 4)) if name == "None" else "solid"  # it lies on momentum 1
            words = f"eval mode, momentum {name}"
            place.plot(steps, fit["eval"], color=_COLOURS[name], linestyle=style, label=words)
        place.plot(steps, fits["0.1"]["train"], color=BLACK, label="train mode, any momentum")
        place.set(xlabel="step", xscale="log", yscale="log", ylim=(1e-6, 1e28 if "13" in inputs else 1e12))
        title(place, f"Inputs {inputs}")
    axes[0, 0].set_ylabel("squared error")
    legend(axes[0, 1], loc="center right", bbox_to_anchor=(1, 0.58))
    return figure


def _draw_batches(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 2, 3.3)
    rows = [numbers["batches"][str(n)] for n in BATCH_SIZES]
    line = np.geomspace(2, 64, 200)
    axes[0, 0].plot(line, np.sqrt((line - 2) / line), color=BLUE, label="√((n − 2) / n)")
    axes[0, 0].plot(BATCH_SIZES, [row["gradient"] for row in rows], "o", color=RED, label="measured")
    axes[0, 0].set(ylabel="length after / before", ylim=(-0.03, 1.03))
    title(axes[0, 0], "Gradient that passes batch norm")
    axes[0, 1].plot(BATCH_SIZES, [row["train_error"] for row in rows], "o-", color=BLACK, label="train mode")
    axes[0, 1].plot(BATCH_SIZES, [row["eval_error"] for row in rows], "o-", color=BLUE, label="eval mode")
    axes[0, 1].axhline(1 / 12, color=BLACK, linewidth=0.8, linestyle=":", label="a constant, 1/12")
    axes[0, 1].set(ylabel="squared error", ylim=(-0.003, 0.09))
    title(axes[0, 1], "Best fit of y = x behind batch norm")
    for place in axes[0]:
        place.set(xlabel="values in the batch, n", xscale="log")
        place.set_xticks(BATCH_SIZES, map(str, BATCH_SIZES))
        place.minorticks_off()
    legend(axes[0, 0], loc="lower right")
    legend(axes[0, 1], loc="center right")
    return figure
