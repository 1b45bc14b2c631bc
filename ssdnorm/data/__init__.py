"""Data sets, augmentation and batches. Knows nothing of default boxes."""

from ssdnorm.data.batches import (
    EvalBatchSampler,
    Sample,
    Samples,
    TrainBatchSampler,
    collate,
    make_eval_loader,
    make_train_loader,
)
from ssdnorm.data.coco import CocoDataset
from ssdnorm.data.dataset import DetectionDataset, subset
from ssdnorm.data.image_cache import CachedDataset
from ssdnorm.data.images import EncodedImage
from ssdnorm.data.shapes import ShapesDataset
from ssdnorm.data.transforms import EvalTransform, TrainTransform
from ssdnorm.data.voc import VocDataset
from ssdnorm.data.yolo import YoloDataset

__all__ = [
    "CachedDataset",
    "CocoDataset",
    "DetectionDataset",
    "EncodedImage",
    "EvalBatchSampler",
    "EvalTransform",
    "Sample",
    "Samples",
    "ShapesDataset",
    "TrainBatchSampler",
    "TrainTransform",
    "VocDataset",
    "YoloDataset",
    "collate",
    "make_eval_loader",
    "make_train_loader",
    "subset",
]
