"""What does an image's output owe to the other images in its batch?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from demonstration import Demonstration, Numbers, Progress, generator, markdown_table, run
from matplotlib.figure import Figure
from torch import Tensor, nn

from ssdnorm.layers.conv import ConvBlock
from ssdnorm.layers.norms import norm_layer
from ssdnorm.layers.population_statistics import recompute_population_stats
from ssdnorm.models.ssd import ssd300_vgg16
from ssdnorm.plots.colors import COLORS
from ssdnorm.plots.style import panels, styled

NORMS: dict[str, str | dict[str, Any]] = {"batch norm": "batch_norm", "group norm": {"kind": "group_norm", "groups": 8}}
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
TAP_BATCH_SIZES = (2, 4, 8, 16, 32)
_HUES = torch.tensor([[0.9, 0.3, 0.3], [0.3, 0.9, 0.3], [0.3, 0.3, 0.9], [0.75, 0.75, 0.3]])
_TESTS, _DRAWS = 256, 30
_TAP_NORMS = {name: f"backbone.{name}.norm" for name in ("conv4_3", "fc7")} | {
    name: f"extras.{name}.norm" for name in ("conv8_2", "conv9_2", "conv10_2", "conv11_2")
}


def measure_batch_size(*, seed: int = 0, steps: int = 200, progress: Progress = list) -> Numbers:
    """Train a small network on coloured discs with either norm; then pass the same images in batches of each size.

    Statistics are those of the batch; under the keys ``…_from_training`` those of training, in eval mode.

    Args:
        steps: of gradient descent on batches of 32.
    """
    images, labels = draw_discs(2000 + _TESTS, 16, generator(seed))
    tests = images[2000:], labels[2000:]
    networks = {}
    for name in progress(list(NORMS)):
        network = train(NORMS[name], images[:2000], labels[:2000], steps, seed)
        networks[name] = {
            "accuracy_from_training": _accuracy(_probabilities(network.eval(), tests[0], _TESTS), tests[1]),
            "by_size": {str(size): _in_batches(network, *tests, size) for size in BATCH_SIZES},
            "one_image": {str(size): _one_image(network, *tests, size, seed) for size in BATCH_SIZES},
            "one_image_from_training": {
                str(size): _one_image(network, *tests, size, seed, from_training=True) for size in BATCH_SIZES
            },
        }
    return {"seed": seed, "steps": steps, "networks": networks, "taps": measure_taps(seed, progress)}


def draw_discs(count: int, size: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Discs in four colours on a grey ground, with noise; the label is the colour.

    Shape:
        images ``(count, 3, size, size)`` and labels ``(count,)``.
    """
    at = (torch.arange(size) + 0.5) / size
    labels = torch.randint(len(_HUES), (count,), generator=stream)
    centres = 0.3 + 0.4 * torch.rand(count, 2, 1, 1, generator=stream)
    radii = 0.12 + 0.25 * torch.rand(count, 1, 1, generator=stream)
    inside = (at - centres[:, 0]).square() + (at[:, None] - centres[:, 1]).square() < radii.square()
    light = 0.4 + 0.6 * torch.rand(count, 1, generator=stream)
    ground = torch.rand(count, 1, 1, 1, generator=stream)
    colour = (light * _HUES[labels])[:, :, None, None]
    images = torch.where(inside[:, None], colour, ground)
    return images + 0.1 * torch.randn(images.shape, generator=stream), labels


def train(norm: str | dict[str, Any], images: Tensor, labels: Tensor, steps: int, seed: int) -> nn.Module:
    """Three ConvBlocks with that norm, a mean over positions and a linear layer."""
    factory, stream = norm_layer(norm), generator(seed)
    network = nn.Sequential(
        ConvBlock(3, 16, 3, norm=factory, padding=1),
        ConvBlock(16, 32, 3, norm=factory, stride=2, padding=1),
        ConvBlock(32, 64, 3, norm=factory, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, len(_HUES)),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=stream)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randint(len(images), (32,), generator=stream)
        optimizer.zero_grad()
        F.cross_entropy(network.train()(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return network


def statistics_of_the_batch(network: nn.Module) -> nn.Module:
    """Put the norms into train mode with momentum 0: they take the batch's statistics and keep none."""
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return network


@torch.no_grad()
def _probabilities(network: nn.Module, images: Tensor, size: int) -> Tensor:
    return torch.cat([network(batch).softmax(1) for batch in images.split(size)])


def _accuracy(probabilities: Tensor, labels: Tensor) -> float:
    return (probabilities.argmax(1) == labels).float().mean().item()


def _distance(probabilities: Tensor, reference: Tensor) -> float:
    """Total variation, the mean over images."""
    return ((probabilities - reference).abs().sum(1) / 2).mean().item()


def _in_batches(network: nn.Module, images: Tensor, labels: Tensor, size: int) -> Numbers:
    reference = _probabilities(network.eval(), images, _TESTS)
    from_training = _probabilities(network, images, size)
    order = labels.argsort()
    mixed = _probabilities(statistics_of_the_batch(network), images, size)
    alike = _probabilities(network, images[order], size)
    return {
        "distance": _distance(mixed, reference),
        "distance_from_training": _distance(from_training, reference),
        "accuracy_mixed": _accuracy(mixed, labels),
        "accuracy_alike": _accuracy(alike, labels[order]),
        "accuracy_from_training": _accuracy(from_training, labels),
    }


def _one_image(
    network: nn.Module, images: Tensor, labels: Tensor, size: int, seed: int, *, from_training: bool = False
) -> list[float]:
    """Probability of the right class of image 0 among random other images, the same ones for either statistics."""
    stream, label = generator(seed), int(labels[0])
    network = network.eval() if from_training else statistics_of_the_batch(network)
    others = [1 + torch.randperm(_TESTS - 1, generator=stream)[: size - 1] for _ in range(_DRAWS)]
    batches = [torch.cat([images[:1], images[some]]) for some in others]
    return [_probabilities(network, batch, size)[0, label].item() for batch in batches]


@torch.no_grad()
def measure_taps(seed: int, progress: Progress) -> Numbers:
    """How far each tap of an SSD300 moves when only the norm in front of it takes the statistics of the batch.

    Relative to the tap with statistics over 32 other images. A sixteenth of VGG16's channels, random weights, batch
    norm everywhere, discs of 300 × 300 pixels.
    """
    images, _ = draw_discs(64, 300, generator(seed))
    model = ssd300_vgg16(
        4, backbone_norm="batch_norm", extras_norm="batch_norm", tap_norms={}, dropout=0, width=1 / 16, seed=seed
    )
    recompute_population_stats(model, images[32:].split(8), 32)
    norms = {name: model.features.get_submodule(place) for name, place in _TAP_NORMS.items()}
    inputs: dict[str, list[Tensor]] = {name: [] for name in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0].clone()))
    for batch in progress(list(images[:32].split(8))):
        model.eval()(batch)
    measured = {}
    for name, norm in norms.items():
        x = torch.cat(inputs[name])
        reference = norm.eval()(x).relu()
        statistics_of_the_batch(norm)
        moved = {n: torch.cat([norm(batch) for batch in x.split(n)]).relu() for n in TAP_BATCH_SIZES}
        distances = {str(n): ((tap - reference).norm() / reference.norm()).item() for n, tap in moved.items()}
        measured[name] = {"cells": x[0, 0].numel(), "distance": distances}
    return measured


@styled
def draw_batch_size(numbers: Numbers) -> dict[str, Figure]:
    """Two figures: one image in many batches, and the taps of an SSD300."""
    return {"one-image": _draw_one(numbers), "taps": _draw_taps(numbers)}


def _draw_one(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 2, height=3.2, sharey=True)
    rows = {
        "one_image_from_training": ("-", COLORS["ink"], "statistics of training, in eval mode"),
        "one_image": (".", COLORS["blue"], "statistics of the batch"),
    }
    for place, name in zip(axes[0], NORMS, strict=True):
        for row, (style, colour, words) in rows.items():
            draws = np.array(list(numbers["networks"][name][row].values()))  # sizes × draws
            spread = np.linspace(-0.28, 0.28, draws.shape[1])
            columns = np.arange(len(draws))[:, None] + spread
            place.plot(columns.flat, draws.flat, style, color=colour, linewidth=1, markersize=4, label=words)
        place.set_xticks(range(len(BATCH_SIZES)), map(str, BATCH_SIZES))
        place.set(xlabel="images in the batch", ylim=(-0.03, 1.03))
        place.set_title(f"One image, {name}")
    axes[0, 0].set_ylabel("probability of the right class")
    axes[0, 1].legend(loc="center right")
    return figure


def _draw_taps(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 1, height=3.6)
    place = axes[0, 0]
    colours = (COLORS["ink"], COLORS["blue"], COLORS["violet"], COLORS["green"], COLORS["ochre"], COLORS["pink"])
    for (name, tap), colour in zip(numbers["taps"].items(), colours, strict=True):
        words = f"{name}, {tap['cells']} cell{'s' if tap['cells'] > 1 else ''}"
        place.plot(TAP_BATCH_SIZES, list(tap["distance"].values()), "o-", color=colour, label=words)
    place.set(xlabel="images in the batch", ylabel="distance / length of the tap", xscale="log", ylim=(0, 0.9))
    place.set_xticks(TAP_BATCH_SIZES, map(str, TAP_BATCH_SIZES))
    place.minorticks_off()
    place.set_title("An SSD300's taps: only the last batch norm takes the batch's statistics")
    place.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def tables(numbers: Numbers) -> str:
    """Distance and accuracy by batch size, and the distance of each tap."""
    header = ["images in the batch", "distance", "distance in eval mode", "accuracy, mixed batch", "all of one class"]
    by_size = numbers["networks"]["batch norm"]["by_size"]
    keys = ("distance", "distance_from_training", "accuracy_mixed", "accuracy_alike", "accuracy_from_training")
    rows = [[size, *(row[key] for key in keys)] for size, row in by_size.items()]
    moved = [[name, tap["cells"], *tap["distance"].values()] for name, tap in numbers["taps"].items()]
    taps = markdown_table(["tap", "cells", *(f"batches of {n}" for n in TAP_BATCH_SIZES)], moved, digits=2)
    return f"{markdown_table([*header, 'mixed batch, eval mode'], rows)}\n\n{taps}"


DEMONSTRATION = Demonstration("batch-size", __doc__, measure_batch_size, draw_batch_size, tables)

if __name__ == "__main__":
    raise SystemExit(run(DEMONSTRATION))
