"""Features: backbone, extra layers and tap norms, from images to taps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ssdnorm.layers.modes import run_on_shapes
from ssdnorm.messages import unknown_name
from ssdnorm.resize import ImageSize, height_and_width


class TapNorms(nn.ModuleDict):
    """Normalise named feature maps of any backbone (SSD's, torchvision's FPN, timm's), each with its own norm.

    Args:
        channels: number of channels by map.
        norms: norm factory by map; a map without one gets ``nn.Identity``.

    Shape:
        input maps ``(B, C, H, W)`` by name, or a list in the order of ``channels``; output the same maps after their
        norms, by name. A map without a slot (an FPN's "pool") is returned unchanged.

    Raises:
        ValueError: a norm names a map that does not exist; in forward, a map is missing.

    Example:
        >>> norms = TapNorms({"0": 4, "1": 8}, {"0": nn.BatchNorm2d})
        >>> [tuple(x.shape) for x in norms([torch.ones(2, 4, 3, 3), torch.ones(2, 8, 1, 1)]).values()]
        [(2, 4, 3, 3), (2, 8, 1, 1)]
    """

    def __init__(self, channels: Mapping[str, int], norms: Mapping[str, Callable[[int], nn.Module]]) -> None:
        for name in norms:
            if name not in channels:
                raise ValueError(f"tap_norms: {unknown_name('tap', name, channels)}")
        super().__init__({name: norms[name](c) if name in norms else nn.Identity() for name, c in channels.items()})

    def forward(self, maps: Mapping[str, Tensor] | Sequence[Tensor]) -> OrderedDict[str, Tensor]:
        if not isinstance(maps, Mapping):
            if len(maps) != len(self):
                raise ValueError(f"TapNorms expects {len(self)} maps ({', '.join(self)}); got {len(maps)}")
            maps = dict(zip(self, maps, strict=True))
        for name in self:
            if name not in maps:
                raise ValueError(f"TapNorms expects a map {name!r}; got {', '.join(maps) or 'none'}")
        return OrderedDict((name, self[name](x) if name in self else x) for name, x in maps.items())


class BackboneMaps(nn.Module):
    """Adapt any backbone of feature maps (timm's ``features_only``, torchvision's) to ``SSDFeatures``.

    The channels are determined once at build time, on shapes alone.

    Args:
        backbone: images → list of maps, or maps by name.
        names: of the taps, in the order of the maps; by default ``map1``, ``map2``, …, or the backbone's own names.
        image_size: of the images used to determine the channels, pixels: a side, or (height, width).

    Shape:
        input ``(B, 3, H, W)``; output the taps by name and the last of them, which feeds the extra layers.

    Raises:
        ValueError: the backbone returns anything but maps ``(B, C, H, W)``, or not one map per name.

    Example:
        >>> BackboneMaps(nn.Conv2d(3, 8, 3, stride=8), ["stride8"]).tap_channels
        {'stride8': 8}
    """

    def __init__(self, backbone: nn.Module, names: Sequence[str] | None = None, *, image_size: ImageSize = 256) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = None if names is None else tuple(names)
        maps = run_on_shapes(self, (1, 3, *height_and_width(image_size)))[0]
        for name, x in maps.items():
            if x.ndim != 4:
                raise ValueError(f"BackboneMaps: {name}: expected a map (B, C, H, W); got {tuple(x.shape)}")
        self.names = tuple(maps)
        self.tap_channels: dict[str, int] = {name: x.shape[1] for name, x in maps.items()}
        self.out_channels = list(self.tap_channels.values())[-1]

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        maps = self.backbone(images)
        if isinstance(maps, Tensor):
            maps = [maps]
        if not isinstance(maps, Mapping):
            maps = {f"map{i}": x for i, x in enumerate(maps, 1)}
        names = self.names or tuple(str(name).replace(".", "_") for name in maps)
        if len(maps) != len(names):
            raise ValueError(f"BackboneMaps: {len(names)} names ({', '.join(names)}) for {len(maps)} maps")
        taps = dict(zip(names, maps.values(), strict=True))
        return taps, taps[names[-1]]


class SSDFeatures(nn.Module):
    """Compute the taps of an SSD: backbone, extra layers, tap norms.

    Works as the ``backbone`` of torchvision's ``SSD``: the output is an ``OrderedDict`` and ``out_channels`` a list.

    Args:
        backbone: images → (taps by name, input of the extra layers), with ``tap_channels``: ``VGG16``, or any other
            in ``BackboneMaps``.
        extras: that input → further taps by name, with ``tap_channels``; None for no further taps.
        tap_norms: norm factory by tap; a tap without one gets ``nn.Identity``.

    Shape:
        input ``(B, 3, H, W)``, already normalised; output one map ``(B, C, H, W)`` per tap, in order.

    Raises:
        ValueError: a tap norm names a tap that does not exist.
    """

    def __init__(
        self,
        backbone: nn.Module,
        extras: nn.Module | None = None,
        *,
        tap_norms: Mapping[str, Callable[[int], nn.Module]] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.extras = extras
        further: dict[str, int] = {} if extras is None else extras.tap_channels  # type: ignore[assignment]
        self.tap_channels: dict[str, int] = {**backbone.tap_channels, **further}  # type: ignore[dict-item]
        self.tap_norms = TapNorms(self.tap_channels, tap_norms or {})

    @property
    def out_channels(self) -> list[int]:
        """Number of channels per tap, in order."""
        return list(self.tap_channels.values())

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        taps, x = self.backbone(images)
        return self.tap_norms(taps if self.extras is None else {**taps, **self.extras(x)})

    def in_data_order(self) -> dict[str, nn.Module]:
        """The parts by name in data order; a tap's norm follows the norm of its convolution."""
        parts: dict[str, nn.Module] = {}
        for room, module in (("backbone", self.backbone), ("extras", self.extras)):
            for name, part in () if module is None else module.named_children():
                slots = {f"{room}.{name}.{slot}": child for slot, child in part.named_children()}
                dropout = slots.pop(f"{room}.{name}.dropout", None)
                parts |= slots or {f"{room}.{name}": part}
                if name in self.tap_norms:
                    parts[f"tap_norms.{name}"] = self.tap_norms[name]
                if dropout is not None:
                    parts[f"{room}.{name}.dropout"] = dropout
        return parts


def tap_grids(features: nn.Module, image_size: ImageSize) -> dict[str, tuple[int, int]]:
    """Height and width of each tap in cells, computed on shapes alone (the meta device).

    Example:
        >>> tap_grids(SSDFeatures(BackboneMaps(nn.Conv2d(3, 8, 3, stride=8))), 300)
        {'map1': (38, 38)}
    """
    maps = run_on_shapes(features, (1, 3, *height_and_width(image_size)))
    return {name: (x.shape[-2], x.shape[-1]) for name, x in maps.items()}
