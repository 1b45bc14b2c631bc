"""The extra layers: strided convolutions after fc7 that detect ever larger objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ssdnorm.layers.conv import ConvBlock
from ssdnorm.models.vgg import scale_channels


@dataclass(frozen=True)
class ExtraLayer:
    """A pair of convolutions: 1×1 to ``mid`` channels, then ``kernel_size`` to ``out`` channels, which is a tap."""

    number: int
    mid: int
    out: int
    kernel_size: int = 3
    stride: int = 2
    padding: int = 1

    def output_size(self, cells: int) -> int:
        """Cells along a side after this layer."""
        return (cells + 2 * self.padding - self.kernel_size) // self.stride + 1


def extra_layers_for(rows: int, columns: int) -> tuple[ExtraLayer, ...]:
    """The extra layers that take fc7's map of so many cells to one whose shorter side is one cell.

    Most halve the map (3×3, stride 2). 5 and 3 cells shrink by a 3×3 without padding, 2 × 2 by a padded 4×4: this
    makes the paper's layers for both of its networks, and others by the same rule.

    Sources:
        weiliu89/caffe, examples/ssd/ssd_pascal.py and ssd_pascal_512.py, AddExtraLayers.

    Example:
        >>> [layer.stride for layer in extra_layers_for(19, 19)]  # -> 10 -> 5 -> 3 -> 1
        [2, 2, 1, 1]
    """
    layers: list[ExtraLayer] = []
    while min(rows, columns) > 1:
        mid, out = (128, 256) if layers else (256, 512)
        layer = ExtraLayer(8 + len(layers), mid, out)
        if {rows, columns} <= {3, 5}:
            layer = replace(layer, stride=1, padding=0)
        elif rows == columns == 2:
            layer = replace(layer, kernel_size=4, stride=1)
        layers.append(layer)
        rows, columns = layer.output_size(rows), layer.output_size(columns)
    return tuple(layers)


class ExtraLayers(nn.Module):
    """conv8_1, conv8_2 … conv11_2 (SSD300) or conv12_2 (SSD512).

    Args:
        in_channels: channels of the backbone's last map.
        layers: such as ``extra_layers_for`` makes.
        norm: norm factory for the slot after every convolution; None leaves the slots empty.
        width: factor on every channel count.

    Shape:
        input ``(B, in_channels, H, W)``; output one tap ``(B, C, H', W')`` per pair, named like its second layer.
    """

    def __init__(
        self,
        in_channels: int,
        layers: tuple[ExtraLayer, ...],
        *,
        norm: Callable[[int], nn.Module] | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.tap_channels: dict[str, int] = {}
        for layer in layers:
            mid, out = scale_channels(layer.mid, width), scale_channels(layer.out, width)
            second = ConvBlock(mid, out, layer.kernel_size, norm=norm, stride=layer.stride, padding=layer.padding)
            self.add_module(f"conv{layer.number}_1", ConvBlock(in_channels, mid, 1, norm=norm))
            self.add_module(f"conv{layer.number}_2", second)
            self.tap_channels[f"conv{layer.number}_2"] = in_channels = out

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        taps = {}
        for name, block in self.named_children():
            x = block(x)
            if name in self.tap_channels:
                taps[name] = x
        return taps
