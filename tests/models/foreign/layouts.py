"""The names of other systems' SSD-VGG16, written down by rule and apart from the code that converts them."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdnorm import ssd300_vgg16, ssd512_vgg16

BACKBONE = [*(f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)), "fc6", "fc7"]
EXTRAS = [f"conv{8 + i // 2}_{1 + i % 2}" for i in range(10)]
PLACES = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33]
TF_BACKBONE = [f"{name[:5]}/{name}" for name in BACKBONE[:13]] + ["conv6", "conv7"]


def theirs_by_ours(family: str, size: int = 300) -> dict[str, str]:
    """Our parameter name → theirs, all of them."""
    convs = EXTRAS[: 8 if size == 300 else 10]
    taps = ["conv4_3", "fc7", *convs[1::2]]
    backbone, extra, loc, conf, scale = {
        "amdegroot": ("vgg.{place}", "extras.{i}", "loc.{i}", "conf.{i}", "L2Norm.weight"),
        "lufficc": (
            "backbone.vgg.{place}", "backbone.extras.{i}", "box_head.predictor.reg_headers.{i}",
            "box_head.predictor.cls_headers.{i}", "backbone.l2_norm.weight",
        ),
        "mmdetection": (
            "backbone.features.{place}", "neck.extra_layers.{pair}.{half}.conv", "bbox_head.reg_convs.{i}.0",
            "bbox_head.cls_convs.{i}.0", "neck.l2_norm.weight",
        ),
        "chainercv": (
            "extractor/{chainer}", "extractor/{name}", "multibox/loc/{i}", "multibox/conf/{i}", "extractor/norm4/scale"
        ),
        "balancap": (
            f"ssd_{size}_vgg/{{tf}}", f"ssd_{size}_vgg/{{tf}}", f"ssd_{size}_vgg/block{{block}}_box/conv_loc",
            f"ssd_{size}_vgg/block{{block}}_box/conv_cls", f"ssd_{size}_vgg/block4_box/L2Normalization/gamma",
        ),
    }[family]  # fmt: skip
    names = {}
    for name, place, tf in zip(BACKBONE, PLACES, TF_BACKBONE, strict=True):
        chainer = {"fc6": "conv6", "fc7": "conv7"}.get(name, name)
        names[f"features.backbone.{name}.conv"] = backbone.format(place=place, chainer=chainer, tf=tf)
    for i, name in enumerate(convs):
        kernel = "conv1x1" if i % 2 == 0 else "conv4x4" if name == "conv12_2" else "conv3x3"
        tf = f"block{8 + i // 2}/{kernel}"
        names[f"features.extras.{name}.conv"] = extra.format(i=i, pair=i // 2, half=i % 2, name=name, tf=tf)
    for i, name in enumerate(taps):
        block = [4, 7, 8, 9, 10, 11, 12][i]
        names[f"head.locs.{name}"] = loc.format(i=i, block=block)
        names[f"head.logits.{name}"] = conf.format(i=i, block=block)
    words = {"chainercv": ("/W", "/b"), "balancap": ("/weights", "/biases")}.get(family, (".weight", ".bias"))
    full = {
        f"{ours}.{w}": their + theirs
        for ours, their in names.items()
        for w, theirs in zip(("weight", "bias"), words, strict=True)
    }
    return full | {"features.tap_norms.conv4_3.weight": scale}


def shapes(num_classes: int, size: int = 300) -> dict[str, torch.Size]:
    """Shapes by our names, OIHW."""
    with torch.device("meta"):
        state = (ssd300_vgg16 if size == 300 else ssd512_vgg16)(num_classes).state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.startswith("image_")}


def draw(family: str, num_classes: int, size: int = 300) -> dict[str, Tensor]:
    """A state dict of the family with random values, each tensor in the family's own layout."""
    generator = torch.Generator().manual_seed(5)
    names = theirs_by_ours(family, size)
    state = {}
    for ours, shape in shapes(num_classes, size).items():
        if family == "balancap" and len(shape) == 4:
            shape = (shape[2], shape[3], shape[1], shape[0])
        state[names[ours]] = torch.rand(shape, generator=generator)
    return state
