"""This file is about the maps of one training step: their numbers by layer and tap, read by hooks, on the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ssdnorm.diagnose.maps import dead_channels, position_lengths, root_mean_square, zero_positions
from ssdnorm.diagnose.ssd_parts import SSDParts

LENGTH_QUANTILES = {"length_p05": 0.05, "length_median": 0.5, "length_p95": 0.95}


class TrainingMaps:
    """Reads the maps of an SSD's ReLUs and tap norms while hooks are on; changes nothing and waits for no device.

    Attributes:
        numbers: (statistic, layer or tap) → a number, see ``DiagnosticsFile``.
        tap_lengths: (lengths_before or lengths_after, tap) → L2 length over the channels of every position, ``(n,)``.
    """

    def __init__(self, parts: SSDParts) -> None:
        self.parts = parts
        self.numbers: dict[tuple[str, str], Tensor] = {}
        self.tap_lengths: dict[tuple[str, str], Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def put_hooks_on(self) -> None:
        for name, relu in self.parts.activations.items():
            self._handles.append(relu.register_forward_hook(_reader(self._read_layer, name)))
        for name, norm in self.parts.tap_norms.items():
            self._handles.append(norm.register_forward_pre_hook(_reader(self._read_before_norm, name)))
            self._handles.append(norm.register_forward_hook(_reader(self._read_after_norm, name)))

    def take_hooks_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def layers(self) -> list[str]:
        """Those that data passed, in its order."""
        return [name for statistic, name in self.numbers if statistic == "rms"]

    def _read_layer(self, name: str, x: Tensor) -> None:
        lengths, mean = position_lengths(x), x.mean(dtype=torch.float32)
        rms = root_mean_square(lengths, x.shape[1])
        ascending = lengths.flatten().sort().values  # torch.quantile refuses maps of more than 2^24 positions
        values = {
            "mean": mean,
            "std": (rms.square() - mean.square()).clamp_min(0).sqrt(),
            "rms": rms,
            "length_mean": lengths.mean(),
            **{key: ascending[int(q * (len(ascending) - 1))] for key, q in LENGTH_QUANTILES.items()},
            "zero_positions": zero_positions(x),
            "dead_channels": dead_channels(x),
        }
        self.numbers.update({(statistic, name): value for statistic, value in values.items()})

    def _read_before_norm(self, name: str, x: Tensor) -> None:
        if ("rms", name) not in self.numbers:  # a tap of our own backbones is a layer, read already
            self._read_layer(name, x)
        self._read_around_norm("before", name, x)

    def _read_after_norm(self, name: str, x: Tensor) -> None:
        self._read_around_norm("after", name, x)

    def _read_around_norm(self, side: str, name: str, x: Tensor) -> None:
        lengths = position_lengths(x)
        self.numbers[f"length_{side}", name] = lengths.mean()
        self.numbers[f"rms_{side}", name] = root_mean_square(lengths, x.shape[1])
        self.tap_lengths[f"lengths_{side}", name] = lengths.flatten()


def _reader(read: Callable[[str, Tensor], None], name: str) -> Callable[..., None]:
    """A hook, before or after a module, that hands its map on and changes nothing."""

    @torch.no_grad()
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        read(name, (args[0] if output is None else output).detach())

    return hook
