"""Initial weights: drawn per parameter name, or loaded into the backbone from VGG16 trained on ImageNet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ssdnorm.messages import did_you_mean
from ssdnorm.models.tensor_files import read_tensors
from ssdnorm.models.vgg import VGG16_CONVS

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]; with these, inputs have about unit variance
IMAGENET_STD = (0.229, 0.224, 0.225)
# Indices of the convolutions in torchvision's vgg16.features and vgg16_bn.features (configuration D of its vgg.py)
_TORCHVISION = dict(zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), VGG16_CONVS, strict=True))
_TORCHVISION_BN = dict(zip((0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40), VGG16_CONVS, strict=True))
# amdegroot's vgg16_reducedfc.pth: an nn.ModuleList of convolutions, ReLUs and pools, fc6 and fc7 already reduced
_REDUCED = {**_TORCHVISION, 31: "fc6", 33: "fc7"}
_FC6, _FC7 = (4096, 512 * 49), (4096, 4096)  # neurons, inputs
_CAFFE_MEAN = tuple(v / 255 for v in (123.68, 116.779, 103.939))  # RGB; the Oxford VGG release gives them as BGR
_REDUCED_MEAN = tuple(v / 255 for v in (123.0, 117.0, 104.0))  # RGB; what amdegroot and lufficc train on the file with
_BYTE_STD = (1 / 255, 1 / 255, 1 / 255)  # inputs of 0 … 255 minus the mean


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
    if isinstance(weights, str) and weights.startswith(("VGG16_Weights.", "VGG16_BN_Weights.")):
        state, mean, std = _from_torchvision(weights)
    else:
        state, mean, std = read_tensors(Path(weights)), IMAGENET_MEAN, IMAGENET_STD
        if "conv1_1.weight" in state:
            mean, std = _CAFFE_MEAN, _BYTE_STD
        elif "33.weight" in state:
            mean, std = _REDUCED_MEAN, _BYTE_STD
    layers = _by_layer(state, str(weights))
    for name, tensors in layers.items():
        _load_block(model.get_submodule(f"features.backbone.{name}"), tensors, f"{weights}: {name}")
    model.get_buffer("image_mean").copy_(torch.tensor(mean))
    model.get_buffer("image_std").copy_(torch.tensor(std))


def _from_torchvision(name: str) -> tuple[dict[str, Tensor], tuple[float, ...], tuple[float, ...]]:
    from torchvision.models import VGG16_BN_Weights, VGG16_Weights, get_weight

    names = [str(entry) for enum in (VGG16_Weights, VGG16_BN_Weights) for entry in enum]
    if name not in names:
        hint = did_you_mean(name, names)
        raise ValueError(f"weights: unknown weights {name!r}; choose one of: {', '.join(names)}, or a path.{hint}")
    entry = get_weight(name)
    transform = entry.transforms()
    return entry.get_state_dict(progress=True, check_hash=True), tuple(transform.mean), tuple(transform.std)


def _by_layer(state: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    """Group tensors by layer, then name: weight, bias and, for batch norm, bn.weight, bn.running_mean, …"""
    if "conv1_1.weight" in state:
        layers = {name: _conv(state, name, where) for name in VGG16_CONVS}
        layers["conv1_1"]["weight"] = layers["conv1_1"]["weight"].flip(1)  # BGR -> RGB
        return layers | (_reduced(state, "fc6", "fc7", where) if "fc6.weight" in state else {})
    if "33.weight" in state:
        return {name: _conv(state, str(place), where) for place, name in _REDUCED.items()}
    if "features.0.weight" not in state:
        some = ", ".join(list(state)[:4])
        raise ValueError(
            f"{where}: no VGG16 backbone found; expected torchvision's keys (features.0.weight, …), the npz's "
            f"(conv1_1.weight, …) or vgg16_reducedfc's (0.weight … 33.weight); got {some}, …"
        )
    with_bn = "features.1.running_mean" in state
    layers = {}
    for place, name in (_TORCHVISION_BN if with_bn else _TORCHVISION).items():
        layers[name] = _conv(state, f"features.{place}", where)
        if with_bn:
            for key in ("weight", "bias", "running_mean", "running_var"):
                layers[name][f"bn.{key}"] = _get(state, f"features.{place + 1}.{key}", where)
    fc6 = state.get("classifier.0.weight")
    # the feature-only release fills the classifier with NaN
    if fc6 is not None and (fc6.numel() != math.prod(_FC6) or bool(fc6.isfinite().all())):
        layers |= _reduced(state, "classifier.0", "classifier.3", where)
    return layers


def _conv(state: Mapping[str, Tensor], name: str, where: str) -> dict[str, Tensor]:
    return {key: _get(state, f"{name}.{key}", where) for key in ("weight", "bias")}


def _reduced(state: Mapping[str, Tensor], fc6: str, fc7: str, where: str) -> dict[str, dict[str, Tensor]]:
    """Subsample VGG16's fully connected layers to convolutions: 4096 neurons on 7×7 cells -> 1024 on 3×3."""
    first, second = _conv(state, fc6, where), _conv(state, fc7, where)
    for name, tensors, (neurons, inputs) in ((fc6, first, _FC6), (fc7, second, _FC7)):
        weight, bias = tuple(tensors["weight"].shape), tuple(tensors["bias"].shape)
        if (weight[:1], math.prod(weight[1:]), bias) != ((neurons,), inputs, (neurons,)):
            got = f"weight {weight}, bias {bias}"
            raise ValueError(f"{where}: {name}: expected {neurons} neurons on {inputs} inputs; got {got}")
    return {
        "fc6": {"weight": first["weight"].reshape(4096, 512, 7, 7)[::4, :, ::3, ::3], "bias": first["bias"][::4]},
        "fc7": {"weight": second["weight"].reshape(4096, 4096)[::4, ::4, None, None], "bias": second["bias"][::4]},
    }


def _get(state: Mapping[str, Tensor], key: str, where: str) -> Tensor:
    if key not in state:
        raise ValueError(f"{where}: the key {key!r} is missing")
    if not state[key].is_floating_point() or state[key].layout != torch.strided:
        raise ValueError(f"{where}: {key}: expected floating-point numbers; got {state[key].dtype}")
    return state[key]


def _load_block(block: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    conv, norm = block.get_submodule("conv"), block.get_submodule("norm")
    expected = tuple(conv.get_parameter("weight").shape)
    for name, tensor in tensors.items():
        shape = expected if name == "weight" else expected[:1]
        if tensor.shape != shape:
            got = tuple(tensor.shape)
            raise ValueError(f"{where}: {name} {got} does not fit the model's {shape}; VGG16's weights need width 1")
    tensors = {name: tensor.float() for name, tensor in tensors.items()}  # a few bytes can stand for any shape
    weight, bias = tensors["weight"], tensors["bias"]
    if bn := {key.removeprefix("bn."): value for key, value in tensors.items() if key.startswith("bn.")}:
        if isinstance(getattr(norm, "running_mean", None), Tensor):
            norm.load_state_dict(bn, strict=False)
        else:
            factor = bn["weight"] / (bn["running_var"] + 1e-5).sqrt()
            weight = weight * factor[:, None, None, None]
            bias = (bias - bn["running_mean"]) * factor + bn["bias"]
    conv.get_parameter("weight").copy_(weight)
    conv.get_parameter("bias").copy_(bias)
