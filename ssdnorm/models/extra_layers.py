"""The extra layers: strided convolutions after fc7 that detect ever larger objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


# weiliu89/caffe, examples/ssd/ssd_pascal.py and ssd_pascal_512.py, AddExtraLayers
EXTRA_LAYERS_300 = (
    ExtraLayer(8, 256, 512),  # 19 -> 10
    ExtraLayer(9, 128, 256),  # 10 -> 5
    ExtraLayer(10, 128, 256, stride=1, padding=0),  # 5 -> 3
    ExtraLayer(11, 128, 256, stride=1, padding=0),  # 3 -> 1
)
EXTRA_LAYERS_512 = (
    ExtraLayer(8, 256, 512),  # 32 -> 16
    ExtraLayer(9, 128, 256),  # 16 -> 8
    ExtraLayer(10, 128, 256),  # 8 -> 4
    ExtraLayer(11, 128, 256),  # 4 -> 2
    ExtraLayer(12, 128, 256, kernel_size=4, stride=1),  # 2 -> 1
)


class ExtraLayers(nn.Module):
    """conv8_1, conv8_2 … conv11_2 (SSD300) or conv12_2 (SSD512).

    Args:
        in_channels: channels of the backbone's last map.
        layers: ``EXTRA_LAYERS_300``, ``EXTRA_LAYERS_512`` or any others.
        norm: norm factory for the slot after every convolution; None leaves the slots empty.
        width: factor on every channel count.

    Shape:
        input ``(B, in_channels, H, W)``; output one tap ``(B, C, H', W')`` per pair, named like its second layer.
    """

    def __init__(
        self,
        in_channels: int,
        layers: tuple[ExtraLayer, ...] = EXTRA_LAYERS_300,
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
