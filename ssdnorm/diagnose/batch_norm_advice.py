"""Report on a model's batch norms, and advise what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from ssdnorm.diagnose.activations import maps_in
from ssdnorm.diagnose.batch_norm import Forward, LayerDistances, batch_norm_distances, batch_norm_uses
from ssdnorm.diagnose.model_state import unwrap_model
from ssdnorm.diagnose.momentum import MomentumCurves, momentum_curves

MEAN_SHIFT = 0.25  # σ: moves a tenth of normally distributed values across ReLU's threshold (Φ(.25) − ½ = .099)
VARIANCE_RATIO = 1.5  # the layer's output is then 22 % too large or 18 % too small (√1.5)
VARIANCE_NOISE = 0.1  # expected error of a running variance that is good enough: 5 % of the output
OUTPUT_DISTANCE = 0.2  # of the output's length: the effect of one layer whose variance is off by the ratio above
SAME_OUTPUT = 1e-4  # of the largest output: ten times the float32 rounding of kernels that change with the batch
_NAMED = 3  # layers that advice names


@dataclass(frozen=True)
class BatchNormReport:
    """Measurements of a model's batch norms.

    Attributes:
        layers: see ``LayerDistances``.
        output_distance: by statistics (``running``, ``batch``), then by output: L2 distance from the output with
            population statistics, relative to that output's length.
        company: by mode (``eval``, ``train``): largest change of the first image's outputs when the other images of its
            batch are exchanged, relative to the largest output.
        curves: of momentum and batch size.
        batch_size, num_images: of the measurement.
    """

    layers: list[LayerDistances]
    output_distance: dict[str, dict[str, float]]
    company: dict[str, float]
    curves: MomentumCurves
    batch_size: int
    num_images: int

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        layers = {
            row.name: {
                "channels": row.channels,
                "momentum": row.momentum,
                "num_batches_tracked": row.num_batches_tracked,
                "running": vars(row.running),
                "batch": vars(row.batch),
            }
            for row in self.layers
        }
        return {**vars(self), "layers": layers, "curves": asdict(self.curves), "advice": batch_norm_advice(self)}


def batch_norm_report(
    model: nn.Module, batches: Sequence[Tensor], forward: Forward | None = None
) -> tuple[BatchNormReport, dict[str, Tensor]]:
    """Measure a model's batch norms; the model does not change.

    Args:
        batches: image tensors ``(B, …)`` of two or more images each.
        forward: how to run a batch; ``model(batch)`` when not given.

    Returns:
        The report, and the population statistics by state-dict name.

    Raises:
        ValueError: no batch norm with running statistics; fewer than four images, or a batch of one.
    """
    num_images = sum(len(batch) for batch in batches)
    if num_images < 4 or min(len(batch) for batch in batches) < 2:
        sizes = ", ".join(str(len(batch)) for batch in batches) or "none"
        raise ValueError(f"batch norm: needs batches of two images or more, four images in all; got {sizes}")
    model = unwrap_model(model)
    run = forward or (lambda model, batch: model(batch))
    layers, population = batch_norm_distances(model, batches, forward)
    outputs = {}
    for statistics in ("population", "running", "batch"):
        with batch_norm_uses(model, statistics, population):
            outputs[statistics] = [_flat(run(model, batch)) for batch in batches]
    reference = outputs.pop("population")
    report = BatchNormReport(
        layers=layers,
        output_distance={key: _relative_distance(found, reference) for key, found in outputs.items()},
        company={
            "eval": _change_with_batch(model, batches, run, "running"),
            "train": _change_with_batch(model, batches, run, "batch"),
        },
        curves=momentum_curves(layers),
        batch_size=len(batches[0]),
        num_images=num_images,
    )
    return report, population


def batch_norm_advice(report: BatchNormReport) -> list[str]:
    """What the numbers mean and what to change, one or two sentences each; never empty."""
    advice = []
    never_updated = [row for row in report.layers if row.num_batches_tracked == 0]
    if never_updated:
        names = ", ".join(row.name for row in never_updated[:_NAMED])
        more = f" and {len(never_updated) - _NAMED} more" if len(never_updated) > _NAMED else ""
        advice.append(
            f"the running statistics of {names}{more} were never updated: they are initial values, or loaded from a "
            "file without the count"
        )
    off = sorted((row for row in report.layers if not _how_far(row) <= 1), key=_how_far, reverse=True)
    if off:
        sentences = "; ".join(_describe(row) for row in off[:_NAMED])
        more = f"; and so on in {len(off) - _NAMED} more layers" if len(off) > _NAMED else ""
        advice.append(f"{sentences}{more}: recompute (training.population_images){_momentum_advice(report)}")
    elif any(not far <= OUTPUT_DISTANCE for far in report.output_distance["running"].values()):  # also true for NaN
        far = max(report.output_distance["running"].values())
        worst = max(report.layers, key=lambda row: abs(log(row.running.worst_variance_ratio)))
        advice.append(
            f"with running statistics the output lies {far:.0%} from that with the population's, though no layer as a "
            f"whole is off; the furthest channel, in {worst.name}, has {worst.running.worst_variance_ratio:.2g}× the "
            "population's variance: recompute (training.population_images)"
        )
    size, bias = _nearest_bias(report)
    if 1 + bias < 1 / VARIANCE_RATIO:
        advice.append(
            f"a batch of {size} sees {1 + bias:.2f}× the population's variance, whatever the momentum: a bigger batch "
            "on each process, sync_batch_norm on several, or group_norm"
        )
    if report.company["eval"] > SAME_OUTPUT:
        advice.append(
            f"in eval mode an image's output changes by {report.company['eval']:.1e} with the other images of its "
            "batch, more than rounding does: a layer still uses the batch (track_running_stats=False, or its own mode)"
        )
    if not advice:
        advice.append(
            f"running statistics agree with the population's: means within {MEAN_SHIFT:g} σ, variances within a factor "
            f"of {VARIANCE_RATIO:g} in all {len(report.layers)} layers (root mean square over the channels)"
        )
    return advice


def _how_far(row: LayerDistances) -> float:
    """Distance in units of the thresholds; NaN if the variances are not finite."""
    return max(row.running.variance_factor / VARIANCE_RATIO, row.running.mean_shift / MEAN_SHIFT)


def _describe(row: LayerDistances) -> str:
    parts = []
    if not 1 / VARIANCE_RATIO <= row.running.variance_ratio <= VARIANCE_RATIO:
        parts.append(f"running variance of {row.name} is {row.running.variance_ratio:.2g}× the population's")
    elif not row.running.variance_factor <= VARIANCE_RATIO:
        parts.append(
            f"running variances of {row.name} lie a factor of {row.running.variance_factor:.2g} from the population's, "
            "channel by channel"
        )
    if row.running.mean_shift > MEAN_SHIFT:
        parts.append(f"running mean of {row.name} lies {row.running.mean_shift:.2g} σ from the population's")
    return ", ".join(parts)


def _momentum_advice(report: BatchNormReport) -> str:
    """Which momentum would be low enough at the nearest batch size, if any."""
    curves = report.curves
    size, bias = _nearest_bias(report)
    errors = dict(zip(curves.momenta, curves.variance_error[curves.batch_sizes.index(size)], strict=True))
    used = report.layers[0].momentum
    good = [m for m in curves.momenta if errors[m] <= VARIANCE_NOISE]
    if not good:
        return f"; at batch size {size} no momentum alone is enough (the batches' variance is {1 + bias:.2f}×)"
    if used is not None and used <= good[0]:
        return (
            f"; momentum {used:g} is low enough at batch size {size}: the weights changed since, the images differ "
            "(augmentation), or dropout before the layer was on"
        )
    return f", or momentum {good[0]:g} (expected error of a variance {errors[good[0]]:.0%} at batch size {size})"


def _nearest_bias(report: BatchNormReport) -> tuple[int, float]:
    sizes = report.curves.batch_sizes
    size = max([s for s in sizes if s <= report.batch_size] or [sizes[0]])
    return size, report.curves.variance_bias[sizes.index(size)]


def _flat(output: Any) -> dict[str, Tensor]:
    named = output._asdict() if hasattr(output, "_asdict") else {"output": output}
    return {name + suffix: x.detach().double().cpu() for name, y in named.items() for suffix, x in maps_in(y)}


def _relative_distance(found: Sequence[dict[str, Tensor]], reference: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    distances = {}
    for name in reference[0]:
        difference = sum((a[name] - b[name]).square().sum().item() for a, b in zip(found, reference, strict=True))
        length = sum(b[name].square().sum().item() for b in reference)
        distances[name] = (difference / length) ** 0.5 if length else float(difference > 0)
    return distances


def _change_with_batch(model: nn.Module, batches: Sequence[Tensor], run: Forward, statistics: Any) -> float:
    images = torch.cat(list(batches))
    half = min(len(batches[0]) - 1, (len(images) - 1) // 2)
    both = (torch.cat([images[:1], others]) for others in (images[1 : 1 + half], images[-half:]))
    with batch_norm_uses(model, statistics):
        one, other = ({name: x[0] for name, x in _flat(run(model, batch)).items()} for batch in both)
    largest = max(x.abs().max().item() for x in one.values())
    return max((one[name] - other[name]).abs().max().item() for name in one) / max(largest, 1e-30)


def batch_norm_table(report: BatchNormReport) -> str:
    """Format a report: one line per layer, the distances of the outputs, and the advice."""
    lines = [
        f"{'batch norm':40} {'mean shift (σ)':>16} {'variance ×':>12} {'worst channel ×':>16} {'one batch: ×':>13}"
    ]
    for row in report.layers:
        r = row.running
        lines.append(
            f"{row.name:40} {r.mean_shift:16.3f} {r.variance_ratio:12.3f} {r.worst_variance_ratio:16.3f} "
            f"{row.batch.variance_ratio:13.3f}"
        )
    for statistics, distances in report.output_distance.items():
        listed = ", ".join(f"{name} {value:.2%}" for name, value in distances.items())
        lines.append(f"distance of the output with {statistics} statistics from that with the population's: {listed}")
    for mode, change in report.company.items():
        lines.append(f"same image in another batch, {mode} mode: its output changes by {change:.1e} of the largest")
    return "\n".join([*lines, *(f"advice: {sentence}" for sentence in batch_norm_advice(report))])
