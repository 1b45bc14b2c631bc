"""This file is about features: backbone, extra layers and tap norms, from images to the taps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from difflib import get_close_matches

from torch import Tensor, nn


class SSDFeatures(nn.Module):
    """The named feature maps on which an SSD detects, after their tap norms.

    Drops into torchvision's ``SSD`` as its ``backbone``: the output is an ``OrderedDict`` and ``out_channels`` a list.

    Args:
        backbone: images → (taps by name, input of the extra layers), with ``tap_channels`` and ``out_channels``.
        extras: that input → further taps by name, with ``tap_channels``.
        tap_norms: norm factory by tap; taps that are not named stay as they are.

    Shape:
        input ``(B, 3, S, S)``, already normalised; output one map ``(B, C, H, W)`` per tap, in order.

    Raises:
        ValueError: if a tap norm names a tap that does not exist.
    """

    def __init__(
        self, backbone: nn.Module, extras: nn.Module, *, tap_norms: Mapping[str, Callable[[int], nn.Module]] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.extras = extras
        self.tap_channels: dict[str, int] = {**backbone.tap_channels, **extras.tap_channels}  # type: ignore[dict-item]
        tap_norms = tap_norms or {}
        for name in tap_norms:
            if name not in self.tap_channels:
                guess = get_close_matches(name, self.tap_channels, n=1)
                hint = f" Did you mean {guess[0]!r}?" if guess else ""
                raise ValueError(
                    f"norm.taps: unknown tap {name!r}; choose one of: {', '.join(self.tap_channels)}.{hint}"
                )
        self.tap_norms = nn.ModuleDict(
            {
                name: tap_norms[name](channels) if name in tap_norms else nn.Identity()
                for name, channels in self.tap_channels.items()
            }
        )

    @property
    def out_channels(self) -> list[int]:
        """Channels of each tap, in order."""
        return list(self.tap_channels.values())

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Taps by name, in order."""
        taps, x = self.backbone(images)
        taps = {**taps, **self.extras(x)}
        return OrderedDict((name, norm(taps[name])) for name, norm in self.tap_norms.items())
