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

_NAMES = {  # module → its public names; it is imported when one of them is first used
    "boxes.coder": ("BoxCoder",),
    "boxes.default_boxes": ("DEFAULT_BOXES", "DefaultBoxSpec", "make_default_boxes"),
    "boxes.matcher": ("match_default_boxes",),
    "detector": ("Detector", "load_detector"),
    "layers.conv": ("ConvBlock",),
    "layers.l2_norm": ("L2Norm",),
    "layers.norms": ("NORMS", "norm_layer"),
    "losses.multibox_loss": ("MultiboxLoss",),
    "metrics": ("CocoMetric", "VocMetric"),
    "models.post_process": ("PostProcess",),
    "models.ssd": ("SSD", "ssd300_vgg16", "ssd512_vgg16"),
    "structures": ("Batch", "Detections", "SSDOutput", "Target"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_MODULES, "__version__"])


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'ssdnorm' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"ssdnorm.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
