"""This file is about tables: what was measured as lines of text."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ssdnorm.diagnose.activations import ActivationStatistics
from ssdnorm.diagnose.batch_norm_advice import BatchNormReport, batch_norm_advice


def activation_table(found: ActivationStatistics) -> str:
    """A line for each layer: single values, lengths over the channels, what is dead, and the gradient's mean length."""
    width = max([14, *map(len, found.activations)])
    head = (
        f"{'layer':{width}} {'channels':>8} {'mean':>9} {'std':>9} {'RMS':>9} {'length':>9} {'5 %':>9} {'median':>9} "
        f"{'95 %':>9} {'zero pos.':>9} {'dead ch.':>8}"
    )
    lines = [head + (f" {'gradient':>9}" if found.gradients else "")]
    for name, row in found.activations.items():
        q = row.length_quantiles
        numbers = (row.mean, row.std, row.rms, row.length_mean, q[0.05], q[0.5], q[0.95])
        line = f"{name:{width}} {row.channels:8d} " + " ".join(f"{value:9.4g}" for value in numbers)
        line += f" {row.zero_positions:9.2%} {row.dead_channels:8.1%}"
        if found.gradients:
            gradient = found.gradients.get(name)
            line += " " * 9 + "–" if gradient is None else f" {gradient.length_mean:9.3g}"
        lines.append(line + (f"   {row.non_finite} positions not finite" if row.non_finite else ""))
    return "\n".join(lines)


def scale_table(weights: Mapping[str, Tensor], initial: Mapping[str, float]) -> str:
    """A line for each tap norm with a weight for each channel."""
    lines = [f"{'tap norm':14} {'initial':>8} {'mean':>8} {'std':>8} {'min':>8} {'max':>8}"]
    for name, weight in weights.items():
        w = weight.float()
        numbers = (w.mean(), w.std(correction=0), w.min(), w.max())
        began = f"{initial[name]:8.3g}" if name in initial else f"{'–':>8}"
        lines.append(f"{name:14} {began} " + " ".join(f"{value.item():8.3f}" for value in numbers))
    return "\n".join(lines)


def batch_norm_table(report: BatchNormReport) -> str:
    """A line for each layer, how far outputs lie apart, and the advice."""
    head = f"{'batch norm':40} {'mean shift (σ)':>16} {'variance ×':>12} {'worst channel ×':>16} {'one batch: ×':>13}"
    lines = [head]
    for row in report.layers:
        r = row.running
        lines.append(
            f"{row.name:40} {r.mean_shift:16.3f} {r.variance_ratio:12.3f} {r.worst_variance_ratio:16.3f} "
            f"{row.batch.variance_ratio:13.3f}"
        )
    for statistics, distances in report.output_distance.items():
        words = ", ".join(f"{name} {value:.2%}" for name, value in distances.items())
        lines.append(f"output with {statistics} statistics lies from that with the population's: {words}")
    for mode, change in report.company.items():
        lines.append(f"the same image among others, {mode} mode: its output changes by {change:.1e} of the largest")
    return "\n".join([*lines, *(f"advice: {sentence}" for sentence in batch_norm_advice(report))])
