"""Initial weights: drawn per parameter name, or loaded into the backbone from VGG16 trained on ImageNet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdnorm.messages import did_you_mean
from ssdnorm.models.tensor_files import check_shapes, check_types, read_tensors, shapes_of
from ssdnorm.models.vgg import VGG16_CONVS

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]; with these, inputs have about unit variance
IMAGENET_STD = (0.229, 0.224, 0.225)
# Indices of the convolutions in torchvision's vgg16.features and vgg16_bn.features (configuration D of its vgg.py)
VGG16_PLACES = dict(zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), VGG16_CONVS, strict=True))
_PLACES_WITH_NORMS = dict(zip((0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40), VGG16_CONVS, strict=True))
_BYTE_STD = (1 / 255, 1 / 255, 1 / 255)  # inputs of 0 … 255 minus the mean
# a tensor of the file: names of its convolutions and of fc6 and fc7, mean and std of its inputs
_FORMATS = {
    # the Oxford release; gives its mean as BGR
    "conv1_1.weight": ("{name}", ("fc6", "fc7"), tuple(v / 255 for v in (123.68, 116.779, 103.939)), _BYTE_STD),
    # vgg16_reducedfc.pth, an nn.ModuleList, fc6 and fc7 already reduced; the mean that amdegroot and lufficc train with
    "33.weight": ("{place}", ("31", "33"), tuple(v / 255 for v in (123.0, 117.0, 104.0)), _BYTE_STD),
    "features.0.weight": ("features.{place}", ("classifier.0", "classifier.3"), IMAGENET_MEAN, IMAGENET_STD),
}
_BACKBONE = "features.backbone."
_NORM_KEYS = ("weight", "bias", "running_mean", "running_var")


@torch.no_grad()
def draw_initial_weights(model: nn.Module, seed: int) -> None:
    """Initialise every convolution; each weight depends on the seed and its own name alone.

    Models that differ in their norms therefore start from the same convolutions. Backbone convolutions (names with
    ``backbone.``) follow He et al.'s rule for ReLU networks, the extra layers and the head Glorot and Bengio's, as in
    Caffe's recipe. Biases are set to 0; norms do not change.

    Args:
        model: its ``nn.Conv2d`` modules are changed in place.
        seed: any integer.

    Sources:
        K. He et al. (arXiv:1502.01852), equation 10, fan-in. X. Glorot, Y. Bengio (AISTATS 2010), equation 16.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or module.weight.is_meta:
            continue
        out_channels, in_channels, height, width = module.weight.shape
        fan_in, fan_out = in_channels * height * width, out_channels * height * width
        digest = hashlib.sha256(f"{seed}:{name}.weight".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        draw = torch.empty(module.weight.shape)
        if "backbone." in f".{name}":
            draw.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
        else:
            limit = math.sqrt(6.0 / (fan_in + fan_out))
            draw.uniform_(-limit, limit, generator=generator)
        module.weight.copy_(draw)
        if module.bias is not None:
            module.bias.zero_()


@torch.no_grad()
def load_backbone_weights(model: nn.Module, weights: str | Path) -> None:
    """Load VGG16 classification weights into the backbone of an SSD, and the input statistics that belong to them.

    fc6 and fc7 are loaded where the file has VGG16's fully connected layers, as convolutions that keep every fourth
    neuron and every third row and column (4096×7×7 → 1024×3×3). Batch norms in the file are loaded where the backbone
    has batch norms, and folded into the convolutions elsewhere.

    Args:
        model: an ``SSD`` on ``VGG16`` of width 1.
        weights: a torchvision name such as ``"VGG16_Weights.IMAGENET1K_FEATURES"`` (downloaded and checked by
            torchvision), or a file: torchvision's ``vgg16`` or ``vgg16_bn`` as ``.pth`` or ``.safetensors``; the Oxford
            release as ``.npz`` (``conv1_1.weight`` … ``fc7.weight``, OIHW, **BGR**, 0 … 255 minus mean);
            or ``vgg16_reducedfc.pth`` of amdegroot/ssd.pytorch (RGB, 0 … 255 minus mean).

    Raises:
        ValueError: an unknown name or file format, a missing key, or a shape that does not fit.
        FileNotFoundError: the path does not exist.

    Sources:
        The reduction of fc6 and fc7: W. Liu et al., SSD (arXiv:1512.02325), section 3.
    """
    where = str(weights)
    by_name = isinstance(weights, str) and weights.startswith(("VGG16_Weights.", "VGG16_BN_Weights."))
    entry = _torchvision_entry(where) if by_name else None
    file = read_tensors(Path(weights)) if entry is None else entry.get_state_dict(progress=True, check_hash=True)
    mark = next((mark for mark in _FORMATS if mark in file), None)
    if mark is None:
        raise ValueError(
            f"{where}: no VGG16 backbone found; expected torchvision's keys (features.0.weight, …), the npz's "
            f"(conv1_1.weight, …) or vgg16_reducedfc's (0.weight … 33.weight); got {', '.join(list(file)[:4])}, …"
        )
    names = _names_in(file, mark)
    if missing := [theirs for theirs in names.values() if theirs not in file]:
        raise ValueError(f"{where}: the key {missing[0]!r} is missing")
    check_types({theirs: file[theirs] for theirs in names.values()}, where=where)
    tensors = {f"{_BACKBONE}{ours}": file[theirs] for ours, theirs in names.items()}
    if "fc6.conv.weight" in names and mark != "33.weight":
        _reduce_fc6_and_fc7(tensors, where)

    state = model.state_dict()
    like = {name: name if name.endswith(".conv.weight") else f"{_layer_of(name)}.conv.bias" for name in tensors}
    expected = {name: tuple(state[other].shape) for name, other in like.items()}
    check_shapes(expected, shapes_of(tensors), where=where)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}  # a few bytes can stand for any shape
    if mark == "conv1_1.weight":
        tensors[f"{_BACKBONE}conv1_1.conv.weight"] = tensors[f"{_BACKBONE}conv1_1.conv.weight"].flip(1)  # BGR -> RGB
    for name in [name for name in tensors if name.endswith(".running_mean") and name not in state]:
        _fold_batch_norm(tensors, _layer_of(name))
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if name in state}, strict=False)
    statistics = _FORMATS[mark][2:] if entry is None else (entry.transforms().mean, entry.transforms().std)
    for buffer, values in zip(("image_mean", "image_std"), statistics, strict=True):
        model.get_buffer(buffer).copy_(torch.tensor(values))


def _torchvision_entry(name: str) -> Any:
    from torchvision.models import VGG16_BN_Weights, VGG16_Weights, get_weight

    names = [str(entry) for enum in (VGG16_Weights, VGG16_BN_Weights) for entry in enum]
    if name not in names:
        hint = did_you_mean(name, names)
        raise ValueError(f"weights: unknown weights {name!r}; choose one of: {', '.join(names)}, or a path.{hint}")
    return get_weight(name)


def _names_in(file: Mapping[str, Tensor], mark: str) -> dict[str, str]:
    """Our names inside the backbone → those of the file, for all that it holds of a VGG16."""
    pattern, (fc6, fc7), *_ = _FORMATS[mark]
    with_norms = mark == "features.0.weight" and "features.1.running_mean" in file
    places = _PLACES_WITH_NORMS if with_norms else VGG16_PLACES
    layers = {f"{name}.conv": pattern.format(name=name, place=i) for i, name in places.items()}
    # the feature-only release fills the classifier with NaN
    weight = file.get(f"{fc6}.weight")
    if weight is not None and (weight.numel() != 4096 * 512 * 49 or bool(weight.isfinite().all())):
        layers |= {"fc6.conv": fc6, "fc7.conv": fc7}
    names = {f"{ours}.{key}": f"{theirs}.{key}" for ours, theirs in layers.items() for key in ("weight", "bias")}
    if with_norms:
        names |= {f"{name}.norm.{key}": f"features.{i + 1}.{key}" for i, name in places.items() for key in _NORM_KEYS}
    return names


def _reduce_fc6_and_fc7(tensors: dict[str, Tensor], where: str) -> None:
    """Subsample VGG16's fully connected layers to convolutions: 4096 neurons on 7×7 cells -> 1024 on 3×3."""
    for layer, shape, input_step in (("fc6", (4096, 512, 7, 7), 1), ("fc7", (4096, 4096, 1, 1), 4)):
        names = [f"{_BACKBONE}{layer}.conv.{key}" for key in ("weight", "bias")]
        weight, bias = (tensors[name] for name in names)
        if (weight.shape[:1], weight.numel(), bias.shape) != ((4096,), math.prod(shape), (4096,)):
            got = f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)}"
            raise ValueError(f"{where}: {layer}: expected 4096 neurons on {math.prod(shape[1:])} inputs; got {got}")
        reduced = weight.reshape(shape)[::4, ::input_step, ::3, ::3], bias[::4]
        tensors |= zip(names, reduced, strict=True)


def _fold_batch_norm(tensors: dict[str, Tensor], layer: str) -> None:
    weight, bias = (f"{layer}.conv.{key}" for key in ("weight", "bias"))
    gamma, beta, mean, var = (tensors.pop(f"{layer}.norm.{key}") for key in _NORM_KEYS)
    factor = gamma / (var + 1e-5).sqrt()
    tensors[weight] = tensors[weight] * factor[:, None, None, None]
    tensors[bias] = (tensors[bias] - mean) * factor + beta


def _layer_of(name: str) -> str:
    return name.rsplit(".", 2)[0]
