"""The backbone: VGG16 with fc6 and fc7 as convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ssdnorm.layers.conv import ConvBlock

# stage: channels, convolutions
_STAGES = {"conv1": (64, 2), "conv2": (128, 2), "conv3": (256, 3), "conv4": (512, 3), "conv5": (512, 3)}
VGG16_CONVS = tuple(f"{stage}_{i}" for stage, (_, count) in _STAGES.items() for i in range(1, count + 1))


def scale_channels(channels: int, width: float) -> int:
    """Scale a channel count by ``width`` to the nearest multiple of 8, at least 8.

    Example:
        >>> [scale_channels(512, width) for width in (1.0, 0.5, 0.01)]
        [512, 256, 8]
    """
    return max(8, round(channels * width / 8) * 8)


class VGG16(nn.Module):
    """VGG16 up to fc7, as SSD uses it: taps conv4_3 (stride 8) and fc7 (stride 16).

    Pooling rounds up (300 → 150 → 75 → 38 → 19), pool5 is 3×3 with stride 1, fc6 is a 3×3 convolution with dilation 6
    and fc7 a 1×1 convolution. Dropout follows fc6 and fc7; the fc7 tap is taken *before* its dropout, the input of the
    extra layers after it.

    Args:
        norm: norm factory for the slot after every convolution; None leaves the slots empty.
        dropout: probability of a zero after fc6 and fc7: one number for both, or one each by name.
        width: factor on every channel count.

    Shape:
        input ``(B, 3, H, W)``; output the taps by name, and fc7 after its dropout, each ``(B, C, H', W')``.

    Sources:
        K. Simonyan, A. Zisserman (arXiv:1409.1556), configuration D.
        W. Liu et al., SSD (arXiv:1512.02325), section 3; dropout as in balancap/SSD-Tensorflow.

    Differs from the paper, which removes the dropout: pass ``dropout=0`` for the paper's network.
    """

    def __init__(
        self,
        *,
        norm: Callable[[int], nn.Module] | None = None,
        dropout: float | Mapping[str, float] = 0.5,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width: must be above 0; got {width}")
        fc6_dropout, fc7_dropout = _dropouts(dropout)
        in_channels = 3
        for stage, (channels, num_convs) in _STAGES.items():
            out_channels = scale_channels(channels, width)
            for i in range(1, num_convs + 1):
                self.add_module(f"{stage}_{i}", ConvBlock(in_channels, out_channels, 3, norm=norm, padding=1))
                in_channels = out_channels
        fc_channels = scale_channels(1024, width)
        self.fc6 = ConvBlock(in_channels, fc_channels, 3, norm=norm, padding=6, dilation=6, dropout=fc6_dropout)
        self.fc7 = ConvBlock(fc_channels, fc_channels, 1, norm=norm, dropout=fc7_dropout)
        self.tap_channels = {"conv4_3": scale_channels(512, width), "fc7": fc_channels}
        self.out_channels = fc_channels

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        taps = {}
        x = images
        for stage, (_, num_convs) in _STAGES.items():
            for i in range(1, num_convs + 1):
                x = self.get_submodule(f"{stage}_{i}")(x)
            if stage == "conv4":
                taps["conv4_3"] = x
            x = F.max_pool2d(x, 3, 1, 1) if stage == "conv5" else F.max_pool2d(x, 2, 2, ceil_mode=True)  # 75 -> 38
        x = self.fc6(x)
        taps["fc7"] = self.fc7.before_dropout(x)
        return taps, self.fc7.dropout(taps["fc7"])


def _dropouts(dropout: float | Mapping[str, float]) -> tuple[float, float]:
    by_name = dropout if isinstance(dropout, Mapping) else {"fc6": dropout, "fc7": dropout}
    if unknown := set(by_name) - {"fc6", "fc7"}:
        raise ValueError(f"dropout: unknown layer {sorted(unknown)[0]!r}; choose one of: fc6, fc7")
    for name, p in by_name.items():
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p < 1:
            raise ValueError(f"dropout: {name}: must lie in [0, 1); got {p!r}")
    return by_name.get("fc6", 0.0), by_name.get("fc7", 0.0)
