"""The known systems: layer names, input, default boxes and thresholds, with their sources."""

from __future__ import annotations

from dataclasses import replace

from ssdnorm.boxes.default_boxes import DefaultBoxSpec, default_box_spec
from ssdnorm.models.foreign.family import BACKBONE, Family, ImageSize, State, change_per_box, voc_or_coco_boxes
from ssdnorm.models.weights import VGG16_PLACES

# Places of the 15 convolutions where VGG16's layers are numbered (torchvision, amdegroot, lufficc, mmdetection)
_VGG_INDICES = (*VGG16_PLACES, 31, 33)
TORCHVISION_MEAN = (0.48235, 0.45882, 0.40784)  # torchvision/models/detection/ssd.py, RGB in [0, 1]


TORCHVISION = Family(
    name="torchvision",
    marks=("backbone.scale_weight",),
    # features ends after conv4_3; extra.0 continues with pool4 (0), conv5_1 (1) … and holds fc6 and fc7 in its item 7
    backbone=[f"backbone.features.{i}" for i in _VGG_INDICES[:10]]
    + [f"backbone.extra.0.{i}" for i in ("1", "3", "5", "7.1", "7.3")],
    extras=lambda pair, half: f"backbone.extra.{pair + 1}.{2 * half}",
    locs="head.regression_head.module_list.{i}",
    logits="head.classification_head.module_list.{i}",
    scale="backbone.scale_weight",
    mean=tuple(255 * v for v in TORCHVISION_MEAN),  # type: ignore[arg-type]
    clip="size",
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": 400, "max_detections": 200},
    default_boxes=lambda size, num_classes: default_box_spec("ssd300_coco"),
)

# amdegroot/ssd.pytorch. BaseTransform subtracts (104, 117, 123) from OpenCV's B, G, R, and the data set reverses the
# channels afterwards (data/__init__.py, data/voc0712.py): by R, G, B the mean is the reverse. Detect keeps 200
# detections per class and has no limit per image.
AMDEGROOT = Family(
    name="amdegroot",
    marks=("L2Norm.weight", "vgg.0.weight"),
    backbone=[f"vgg.{i}" for i in _VGG_INDICES],
    extras=lambda pair, half: f"extras.{2 * pair + half}",
    locs="loc.{i}",
    logits="conf.{i}",
    scale="L2Norm.weight",
    clip="all",
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": 200, "max_detections": None},
)

# lufficc/SSD, ssd/config/defaults.py: PIXEL_MEAN, PRIORS.CLIP, TEST; no limit per class, 100 detections per image
LUFFICC = Family(
    name="lufficc",
    marks=("backbone.vgg.0.weight",),
    mark_512="backbone.extras.9.weight",
    backbone=[f"backbone.vgg.{i}" for i in _VGG_INDICES],
    extras=lambda pair, half: f"backbone.extras.{2 * pair + half}",
    locs="box_head.predictor.reg_headers.{i}",
    logits="box_head.predictor.cls_headers.{i}",
    scale="backbone.l2_norm.weight",
    clip="all",
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": None, "max_detections": 100},
)


def _whole_sizes(size: ImageSize, num_classes: int) -> DefaultBoxSpec:
    """Sizes truncated to whole pixels, as SSDAnchorGenerator does: 20.48 -> 20 in SSD512."""
    spec = voc_or_coco_boxes(size, num_classes)
    return replace(spec, min_sizes=tuple(map(int, spec.min_sizes)), max_sizes=tuple(map(int, spec.max_sizes)))


# mmdetection 3, configs/ssd/ssd300_coco.py: data_preprocessor, test_cfg. Its nms_pre 1000 limits candidates per tap
# over all classes; here the limit is per class over all taps.
MMDETECTION = Family(
    name="mmdetection",
    marks=("neck.l2_norm.weight",),
    mark_512="neck.extra_layers.4.0.conv.weight",
    backbone=[f"backbone.features.{i}" for i in _VGG_INDICES],
    extras=lambda pair, half: f"neck.extra_layers.{pair}.{half}.conv",
    locs="bbox_head.reg_convs.{i}.0",
    logits="bbox_head.cls_convs.{i}.0",
    scale="neck.l2_norm.weight",
    mean=(123.675, 116.28, 103.53),
    post_process={"score_threshold": 0.02, "nms_threshold": 0.45, "top_k": 1000, "max_detections": 200},
    ignores=lambda name: name.startswith("data_preprocessor."),
    rearrange=lambda state: change_per_box(state, "logits", lambda outputs: outputs.roll(1, dims=1)),  # last -> first
    default_boxes=_whole_sizes,
)


def _hwio_to_oihw(state: State) -> State:
    return {name: tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor for name, tensor in state.items()}


# balancap/SSD-Tensorflow, preprocessing/ssd_vgg_preprocessing.py: _R_MEAN, _G_MEAN, _B_MEAN; eval_ssd_network.py: the
# thresholds; nets/ssd_vgg_300.py: dropout_keep_prob, and the anchor sizes 21, 45, 99 … also for VOC. Tensors with other
# endings than these belong to the optimizer.
BALANCAP = Family(
    name="balancap",
    marks=("ssd_300_vgg/", "ssd_512_vgg/"),
    mark_512="ssd_512_vgg/",
    prefix="ssd_{size}_vgg/",
    backbone=[*(f"{name[:5]}/{name}" for name in BACKBONE[:13]), "conv6", "conv7"],
    extras=lambda pair, half: f"block{8 + pair}/{('conv1x1', 'conv3x3' if pair < 4 else 'conv4x4')[half]}",
    locs="block{block}_box/conv_loc",
    logits="block{block}_box/conv_cls",
    scale="block4_box/L2Normalization/gamma",
    suffixes=("/weights", "/biases"),
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": 400, "max_detections": 200},
    dropout=0.5,
    ignores=lambda name: name.rsplit("/", 1)[-1] not in ("weights", "biases", "gamma"),
    rearrange=_hwio_to_oihw,
    default_boxes=lambda size, num_classes: default_box_spec(f"ssd{size}_coco"),
)


# chainercv, ssd_vgg16.py: _imagenet_mean by R, G, B; ssd.py: the preset "evaluate"; no limits on the detections
CHAINERCV = Family(
    name="chainercv",
    marks=("extractor/norm4/scale",),
    mark_512="extractor/conv12_1/W",
    backbone=[f"extractor/{name}" for name in (*BACKBONE[:13], "conv6", "conv7")],
    extras=lambda pair, half: f"extractor/conv{8 + pair}_{1 + half}",
    locs="multibox/loc/{i}",
    logits="multibox/conf/{i}",
    scale="extractor/norm4/scale",
    suffixes=("/W", "/b"),
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": None, "max_detections": None},
    rearrange=lambda state: change_per_box(
        state, "locs", lambda outputs: outputs[:, [1, 0, 3, 2]]
    ),  # y x h w -> x y w h
)

FAMILIES = (TORCHVISION, AMDEGROOT, LUFFICC, MMDETECTION, BALANCAP, CHAINERCV)
