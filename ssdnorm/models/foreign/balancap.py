"""This file is about balancap/SSD-Tensorflow: TensorFlow variables, height and width before the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.foreign.family import (
    Family,
    ImageSize,
    Meaning,
    layer_names,
    make_checkpoint,
    rename,
)

# preprocessing/ssd_vgg_preprocessing.py: _R_MEAN, _G_MEAN, _B_MEAN; eval_ssd_network.py: the thresholds;
# nets/ssd_vgg_300.py: dropout_keep_prob, and the anchor sizes 21, 45, 99 … (VOC's are commented out there)
_MEANING = Meaning(
    mean=(123.0, 117.0, 104.0),
    clip="none",
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": 400, "max_detections": 200},
    dropout=0.5,
)
_TRAINING_ONLY = ("global_step", "beta1_power", "beta2_power")  # and the optimizer's slots below the weights


def _convert(
    tensors: Mapping[str, Tensor], *, where: str, default_boxes: str | None, class_names: Sequence[str] | None
) -> Checkpoint:
    tensors = {name: value for name, value in tensors.items() if not _only_for_training(name)}
    size: ImageSize = 512 if any(name.startswith("ssd_512_vgg/") for name in tensors) else 300
    scope, last = f"ssd_{size}_vgg", 11 if size == 300 else 12
    backbone = {
        f"conv{i}_{j}": f"{scope}/conv{i}/conv{i}_{j}" for i in range(1, 6) for j in range(1, 3 if i < 3 else 4)
    }
    backbone |= {"fc6": f"{scope}/conv6", "fc7": f"{scope}/conv7"}
    kernels = {i: ("conv1x1", "conv3x3" if i < 12 else "conv4x4") for i in range(8, last + 1)}
    heads = [f"{scope}/block{i}_box" for i in (4, 7, *range(8, last + 1))]
    layers = layer_names(
        size,
        backbone=backbone,
        extra=[f"{scope}/block{i}/{kernel}" for i, pair in kernels.items() for kernel in pair],
        locs=[f"{head}/conv_loc" for head in heads],
        logits=[f"{head}/conv_cls" for head in heads],
    )
    gamma = f"{scope}/block4_box/L2Normalization/gamma"
    state = rename(tensors, layers, gamma, where=where, separator="/", words=("weights", "biases"))
    state = {
        key: value.permute(3, 2, 0, 1) if value.ndim == 4 else value for key, value in state.items()
    }  # HWIO -> OIHW
    return make_checkpoint(
        state, size, _MEANING, where=where, boxes=default_boxes or f"ssd{size}_coco", class_names=class_names
    )


def _only_for_training(name: str) -> bool:
    leaf = name.rsplit("/", 1)[-1]
    return name in _TRAINING_ONLY or leaf not in ("weights", "biases", "gamma")


FAMILY = Family(
    "balancap", lambda tensors: any(n.startswith(("ssd_300_vgg/", "ssd_512_vgg/")) for n in tensors), _convert
)
