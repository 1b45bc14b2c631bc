"""SSD object detectors with every normalisation choice as a slot that is honoured or refused."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ssdnorm.boxes.coder import BoxCoder as BoxCoder
    from ssdnorm.boxes.default_boxes import DEFAULT_BOXES as DEFAULT_BOXES
    from ssdnorm.boxes.default_boxes import DefaultBoxSpec as DefaultBoxSpec
    from ssdnorm.boxes.default_boxes import make_default_boxes as make_default_boxes
    from ssdnorm.boxes.matcher import match_default_boxes as match_default_boxes
    from ssdnorm.detector import Detector as Detector
    from ssdnorm.detector import load_detector as load_detector
    from ssdnorm.layers.conv import ConvBlock as ConvBlock
    from ssdnorm.layers.l2_norm import L2Norm as L2Norm
    from ssdnorm.layers.norms import NORMS as NORMS
    from ssdnorm.layers.norms import norm_layer as norm_layer
    from ssdnorm.losses.multibox_loss import MultiboxLoss as MultiboxLoss
    from ssdnorm.metrics import CocoMetric as CocoMetric
    from ssdnorm.metrics import VocMetric as VocMetric
    from ssdnorm.models.post_process import PostProcess as PostProcess
    from ssdnorm.models.ssd import SSD as SSD
    from ssdnorm.models.ssd import ssd300_vgg16 as ssd300_vgg16
    from ssdnorm.models.ssd import ssd512_vgg16 as ssd512_vgg16
    from ssdnorm.structures import Batch as Batch
    from ssdnorm.structures import Detections as Detections
    from ssdnorm.structures import SSDOutput as SSDOutput
    from ssdnorm.structures import Target as Target

_MODULES = {  # of each public name; imported when the name is first used
    "Batch": "structures",
    "BoxCoder": "boxes.coder",
    "CocoMetric": "metrics",
    "ConvBlock": "layers.conv",
    "DEFAULT_BOXES": "boxes.default_boxes",
    "DefaultBoxSpec": "boxes.default_boxes",
    "Detections": "structures",
    "Detector": "detector",
    "L2Norm": "layers.l2_norm",
    "MultiboxLoss": "losses.multibox_loss",
    "NORMS": "layers.norms",
    "PostProcess": "models.post_process",
    "SSD": "models.ssd",
    "SSDOutput": "structures",
    "Target": "structures",
    "VocMetric": "metrics",
    "load_detector": "detector",
    "make_default_boxes": "boxes.default_boxes",
    "match_default_boxes": "boxes.matcher",
    "norm_layer": "layers.norms",
    "ssd300_vgg16": "models.ssd",
    "ssd512_vgg16": "models.ssd",
}

__all__ = sorted([*_MODULES, "__version__"])


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'ssdnorm' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"ssdnorm.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
