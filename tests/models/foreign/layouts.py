"""The names and shapes of other systems' SSD-VGG16, written down by rule and apart from the code that converts them."""

from __future__ import annotations

import torch
from torch import Tensor

# (name in the paper, out, in, kernel)
BACKBONE = [
    ("conv1_1", 64, 3, 3), ("conv1_2", 64, 64, 3),
    ("conv2_1", 128, 64, 3), ("conv2_2", 128, 128, 3),
    ("conv3_1", 256, 128, 3), ("conv3_2", 256, 256, 3), ("conv3_3", 256, 256, 3),
    ("conv4_1", 512, 256, 3), ("conv4_2", 512, 512, 3), ("conv4_3", 512, 512, 3),
    ("conv5_1", 512, 512, 3), ("conv5_2", 512, 512, 3), ("conv5_3", 512, 512, 3),
    ("fc6", 1024, 512, 3), ("fc7", 1024, 1024, 1),
]  # fmt: skip
EXTRAS = [
    ("conv8_1", 256, 1024, 1), ("conv8_2", 512, 256, 3),
    ("conv9_1", 128, 512, 1), ("conv9_2", 256, 128, 3),
    ("conv10_1", 128, 256, 1), ("conv10_2", 256, 128, 3),
    ("conv11_1", 128, 256, 1), ("conv11_2", 256, 128, 3),
    ("conv12_1", 128, 256, 1), ("conv12_2", 256, 128, 4),
]  # fmt: skip
TAPS = {
    300: [("conv4_3", 512, 4), ("fc7", 1024, 6), ("conv8_2", 512, 6), ("conv9_2", 256, 6), ("conv10_2", 256, 4),
          ("conv11_2", 256, 4)],
    512: [("conv4_3", 512, 4), ("fc7", 1024, 6), ("conv8_2", 512, 6), ("conv9_2", 256, 6), ("conv10_2", 256, 6),
          ("conv11_2", 256, 4), ("conv12_2", 256, 4)],
}  # fmt: skip
PLACES = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33]
TF_BACKBONE = [f"conv{n.split('_')[0][-1]}/{n}" for n, *_ in BACKBONE[:13]] + ["conv6", "conv7"]


def theirs_by_ours(family: str, size: int = 300) -> dict[str, str]:
    """Our parameter name → theirs, all of them."""
    convs = [name for name, *_ in EXTRAS[: 8 if size == 300 else 10]]
    taps = [name for name, *_ in TAPS[size]]
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
    for (name, *_), place, tf in zip(BACKBONE, PLACES, TF_BACKBONE, strict=True):
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


def shapes(num_classes: int, size: int = 300) -> dict[str, tuple[int, ...]]:
    """Shapes by our names, OIHW."""
    found: dict[str, tuple[int, ...]] = {}
    convs = [("features.backbone", BACKBONE), ("features.extras", EXTRAS[: 8 if size == 300 else 10])]
    for room, layers in convs:
        for name, out, channels, kernel in layers:
            found[f"{room}.{name}.conv.weight"] = (out, channels, kernel, kernel)
            found[f"{room}.{name}.conv.bias"] = (out,)
    for name, channels, boxes in TAPS[size]:
        for part, outputs in (("locs", 4), ("logits", num_classes)):
            found[f"head.{part}.{name}.weight"] = (boxes * outputs, channels, 3, 3)
            found[f"head.{part}.{name}.bias"] = (boxes * outputs,)
    return found | {"features.tap_norms.conv4_3.weight": (512,)}


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
