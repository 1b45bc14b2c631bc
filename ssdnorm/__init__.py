"""SSD object detectors with every normalisation choice as a slot that is honoured or refused."""

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.default_boxes import DEFAULT_BOXES, DefaultBoxSpec, make_default_boxes
from ssdnorm.boxes.matcher import match_default_boxes
from ssdnorm.detector import Detector, load_detector
from ssdnorm.layers.conv import ConvBlock
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.layers.norms import NORMS, norm_layer
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.metrics import CocoMetric, VocMetric
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import SSD, ssd300_vgg16, ssd512_vgg16
from ssdnorm.structures import Batch, Detections, SSDOutput, Target

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - as sorted() has it
    "Batch",
    "BoxCoder",
    "CocoMetric",
    "ConvBlock",
    "DEFAULT_BOXES",
    "DefaultBoxSpec",
    "Detections",
    "Detector",
    "L2Norm",
    "MultiboxLoss",
    "NORMS",
    "PostProcess",
    "SSD",
    "SSDOutput",
    "Target",
    "VocMetric",
    "__version__",
    "load_detector",
    "make_default_boxes",
    "match_default_boxes",
    "norm_layer",
    "ssd300_vgg16",
    "ssd512_vgg16",
]
