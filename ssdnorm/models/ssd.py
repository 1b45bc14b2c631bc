"""SSD: features and head, and the two networks of the paper."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ssdnorm.boxes.default_boxes import (
    DefaultBoxSpec,
    default_box_spec,
    make_default_boxes,
    paper_aspect_ratios,
    spread_default_boxes,
)
from ssdnorm.layers.batch_norm import check_batch_statistics
from ssdnorm.layers.norms import NormSpec, norm_layer
from ssdnorm.models.extra_layers import ExtraLayers, extra_layers_for
from ssdnorm.models.features import SSDFeatures, tap_grids
from ssdnorm.models.head import MultiboxHead
from ssdnorm.models.vgg import VGG16
from ssdnorm.models.weights import IMAGENET_MEAN, IMAGENET_STD, draw_initial_weights, load_backbone_weights
from ssdnorm.resize import height_and_width
from ssdnorm.structures import SSDOutput

PAPER_TAP_NORMS: Mapping[str, NormSpec] = MappingProxyType({"conv4_3": "l2_norm"})


class SSD(nn.Module):
    """Single-shot detector: input normalisation, features, multibox head.

    Args:
        features: images → taps by name, with ``tap_channels``: ``SSDFeatures`` or any such module.
        default_boxes: a spec or a name; its grids must be those of the features.
        num_classes: classes, background included.
        image_mean, image_std: RGB statistics that belong to the weights, of images in [0, 1].

    Shape:
        input images ``(B, 3, H, W)`` of ``image_size``, RGB, uint8 or floats in [0, 1]; output locs ``(B, K, 4)`` and
        logits ``(B, K, num_classes)``.

    Sources:
        W. Liu et al., SSD: Single Shot MultiBox Detector (arXiv:1512.02325).

    Raises:
        ValueError: the features' maps do not fit the default boxes.
    """

    image_mean: Tensor
    image_std: Tensor
    default_boxes: Tensor

    def __init__(
        self,
        features: nn.Module,
        default_boxes: str | DefaultBoxSpec,
        num_classes: int,
        *,
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] | None = None  # how to build it again; saved in checkpoints
        self.spec = default_box_spec(default_boxes, where="default_boxes")
        self.image_size = self.spec.image_size  # the side of a square, or (height, width)
        self.num_classes = num_classes
        self.features = features
        self.head = MultiboxHead(features.tap_channels, self.spec.boxes_per_cell, num_classes)  # type: ignore[arg-type]
        self.register_buffer("image_mean", torch.tensor(image_mean))
        self.register_buffer("image_std", torch.tensor(image_std))
        self.register_buffer("default_boxes", make_default_boxes(self.spec), persistent=False)
        self._check_grid()

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, num_classes={self.num_classes}, default_boxes={self.spec.num_boxes}"

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise uint8 images, or floats in [0, 1], with the model's mean and std. Shape ``(…, 3, H, W)``."""
        if not images.is_floating_point():
            if images.dtype != torch.uint8:
                raise ValueError(f"SSD expects uint8 images, or floats in [0, 1]; got {images.dtype}")
            images = images.to(self.image_mean.dtype) / 255
        return (images - self.image_mean[:, None, None]) / self.image_std[:, None, None]

    def forward(self, images: Tensor) -> SSDOutput:
        height, width = height_and_width(self.image_size)
        if images.ndim != 4 or images.shape[1:] != (3, height, width):
            raise ValueError(f"SSD expects images (B, 3, {height}, {width}); got {tuple(images.shape)}")
        return self.head(self.features(self.normalize(images)))

    def _check_grid(self) -> None:
        try:
            got = tap_grids(self.features, self.image_size)
        except ValueError:  # a group norm with one value per group; the check below names the layer
            check_batch_statistics(copy.deepcopy(self.features).eval(), (1, 3, *height_and_width(self.image_size)))
            raise
        expected = list(self.spec.grids)
        if list(got.values()) != expected:
            raise ValueError(
                f"default_boxes: grids {expected} do not fit the features' maps {got} at "
                f"{self.image_size} pixels; spread_default_boxes makes default boxes for any grids"
            )


def ssd300_vgg16(
    num_classes: int,
    *,
    backbone_norm: NormSpec = "none",
    extras_norm: NormSpec = "none",
    tap_norms: Mapping[str, NormSpec] = PAPER_TAP_NORMS,
    dropout: float | Mapping[str, float] = 0.5,
    default_boxes: str | DefaultBoxSpec = "ssd300_voc",
    width: float = 1.0,
    weights: str | Path | None = None,
    seed: int = 0,
) -> SSD:
    """Build SSD300 on VGG16.

    Args:
        num_classes: classes, background included (21 for VOC).
        backbone_norm, extras_norm: norm spec for the slot after every convolution of VGG, of the extra layers; or a
            class or function ``channels -> Module``, whose model cannot be saved as a checkpoint.
        tap_norms: the same by tap; the paper has ``{"conv4_3": "l2_norm"}``.
        dropout: probability of a zero after fc6 and fc7, or one each by name; **the paper has 0**.
        default_boxes: a name out of ``DEFAULT_BOXES`` or a spec, with the grids 38, 19, 10, 5, 3, 1.
        width: factor on every channel count.
        weights: ImageNet weights of the backbone: a torchvision name (``"VGG16_Weights.IMAGENET1K_FEATURES"``) or a
            path; see :func:`ssdnorm.models.weights.load_backbone_weights`. None draws them.
        seed: of the drawn weights; each weight depends on the seed and its own name alone.

    Sources:
        W. Liu et al., SSD: Single Shot MultiBox Detector (arXiv:1512.02325).

    Example:
        >>> model = ssd300_vgg16(21, dropout=0)
        >>> sum(p.numel() for p in model.parameters())
        26285486
    """
    model = ssd_vgg16(
        num_classes, 300, backbone_norm=backbone_norm, extras_norm=extras_norm, tap_norms=tap_norms, dropout=dropout,
        default_boxes=default_boxes, width=width, weights=weights, seed=seed,
    )  # fmt: skip
    return _named(model, "ssd300_vgg16")


def ssd512_vgg16(
    num_classes: int,
    *,
    backbone_norm: NormSpec = "none",
    extras_norm: NormSpec = "none",
    tap_norms: Mapping[str, NormSpec] = PAPER_TAP_NORMS,
    dropout: float | Mapping[str, float] = 0.5,
    default_boxes: str | DefaultBoxSpec = "ssd512_voc",
    width: float = 1.0,
    weights: str | Path | None = None,
    seed: int = 0,
) -> SSD:
    """Build SSD512 on VGG16: seven taps, 24,564 default boxes. Arguments as :func:`ssd300_vgg16`."""
    model = ssd_vgg16(
        num_classes, 512, backbone_norm=backbone_norm, extras_norm=extras_norm, tap_norms=tap_norms, dropout=dropout,
        default_boxes=default_boxes, width=width, weights=weights, seed=seed,
    )  # fmt: skip
    return _named(model, "ssd512_vgg16")


def ssd_vgg16(
    num_classes: int,
    image_size: int | list[int] | tuple[int, ...],
    *,
    backbone_norm: NormSpec = "none",
    extras_norm: NormSpec = "none",
    tap_norms: Mapping[str, NormSpec] = PAPER_TAP_NORMS,
    dropout: float | Mapping[str, float] = 0.5,
    default_boxes: str | DefaultBoxSpec | Mapping[str, Any] | None = None,
    width: float = 1.0,
    weights: str | Path | None = None,
    seed: int = 0,
) -> SSD:
    """Build an SSD on VGG16 for images of any size, square or not; 300 and 512 give the paper's networks.

    Args:
        image_size: pixels: the side of a square, or (height, width).
        default_boxes: as of :func:`ssd300_vgg16`, or as of :func:`vgg16_default_boxes`; None spreads them.

    Other arguments as :func:`ssd300_vgg16`.

    Example:
        >>> model = ssd_vgg16(3, (192, 320), width=0.1)
        >>> model(torch.zeros(1, 3, 192, 320)).locs.shape[1] == model.spec.num_boxes
        True
    """
    if default_boxes is None or isinstance(default_boxes, Mapping):
        default_boxes = vgg16_default_boxes(image_size, **(default_boxes or {}))
    if not isinstance(tap_norms, Mapping):
        raise ValueError(f"tap_norms: expected norms by tap, such as {{'conv4_3': 'l2_norm'}}; got {tap_norms!r}")
    spec = default_box_spec(default_boxes)
    if height_and_width(spec.image_size) != height_and_width(image_size):
        raise ValueError(f"default_boxes: are for {spec.image_size} pixels; the network takes {image_size}")
    backbone_factory = norm_layer(backbone_norm, where="backbone_norm")
    extras_factory = norm_layer(extras_norm, where="extras_norm")
    tap_factories = {tap: norm_layer(spec, where=f"tap_norms: {tap}") for tap, spec in tap_norms.items()}
    backbone = VGG16(norm=backbone_factory, dropout=dropout, width=width)
    extra_layers = extra_layers_for(*vgg16_grids(image_size)[0]["fc7"])
    extras = ExtraLayers(backbone.out_channels, extra_layers, norm=extras_factory, width=width)
    model = SSD(SSDFeatures(backbone, extras, tap_norms=tap_factories), default_boxes, num_classes)
    if all(factory.given is None for factory in (backbone_factory, extras_factory, *tap_factories.values())):
        model.arguments = {
            "name": "ssd_vgg16",
            "image_size": image_size,
            "num_classes": num_classes,
            "backbone_norm": backbone_factory.spec,
            "extras_norm": extras_factory.spec,
            "tap_norms": {tap: factory.spec for tap, factory in tap_factories.items()},
            "dropout": dropout,
            "default_boxes": default_boxes,
            "width": width,
        }
    draw_initial_weights(model, seed)
    if weights is not None:
        load_backbone_weights(model, weights)
    return model


def _named(model: SSD, name: str) -> SSD:
    """The model as built by another name, which stands for its image size."""
    if model.arguments is not None:
        model.arguments = {**model.arguments, "name": name}
        del model.arguments["image_size"]
    return model


def vgg16_default_boxes(
    image_size: int | list[int] | tuple[int, ...],
    *,
    sizes: Sequence[float] | None = None,
    aspect_ratios: Sequence[Sequence[float]] | None = None,
    steps: Sequence[float | Sequence[float]] | None = None,
) -> DefaultBoxSpec:
    """Make default boxes for an SSD on VGG16 with this input.

    Args:
        image_size: pixels: the side of a square, or (height, width).
        sizes: pixels of the input, one per tap, and one more; by default shares of the shorter side, .07 on the first
            tap and then .15 to .9, as in SSD300 for COCO and SSD512 for VOC.
        aspect_ratios: for each tap; by default the paper's.
        steps: between cells, pixels; by default the strides of the taps, and image over grid where maps shrink without
            a stride.

    Raises:
        ValueError: entries that are not one per tap, or sizes that do not rise.

    Example:
        >>> from ssdnorm.boxes.default_boxes import DEFAULT_BOXES
        >>> spec = vgg16_default_boxes(300, sizes=(30, 60, 111, 162, 213, 264, 315))
        >>> spec == DEFAULT_BOXES["ssd300_voc"]
        True
    """
    size = height_and_width(image_size)
    grids, strides = vgg16_grids(size)
    return spread_default_boxes(
        size,
        grids,
        first_scale=0.07,
        min_scale=0.15,
        sizes=sizes,
        aspect_ratios=paper_aspect_ratios(len(grids)) if aspect_ratios is None else aspect_ratios,
        steps=strides if steps is None else steps,
    )


def vgg16_grids(
    image_size: int | list[int] | tuple[int, ...],
) -> tuple[dict[str, tuple[int, int]], list[tuple[float, float]]]:
    """Rows and columns of cells of each tap of an SSD on VGG16, and the steps between them, down and across."""
    height, width = size = height_and_width(image_size)
    if min(size) < 32:
        raise ValueError(f"image_size: expected 32 pixels or more; got {image_size}")
    grids = {name: (-(-height // step), -(-width // step)) for name, step in (("conv4_3", 8), ("fc7", 16))}
    stride, steps = 16, [(8.0, 8.0), (16.0, 16.0)]
    rows, columns = grids["fc7"]
    for layer in extra_layers_for(rows, columns):
        rows, columns = layer.output_size(rows), layer.output_size(columns)
        stride *= layer.stride
        grids[f"conv{layer.number}_2"] = (rows, columns)
        strided = layer.stride > 1
        down = float(stride) if strided and rows > 1 else height / rows
        steps.append((down, float(stride) if strided and columns > 1 else width / columns))
    return grids, steps
