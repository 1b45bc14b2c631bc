"""COCO and VOC metrics of detections, from any source: what is right, how sure the number is, and where it fails."""

from ssdnorm.metrics.bootstrap import Difference, Interval, bootstrap_coco, bootstrap_difference
from ssdnorm.metrics.coco import CocoMetric, CocoResult, coco_results, evaluate_coco, load_detections, load_ground_truth
from ssdnorm.metrics.errors import ErrorBreakdown, WorstImage, break_down_errors, worst_images
from ssdnorm.metrics.voc import VocMetric, VocResult, evaluate_voc, read_voc_detections, write_voc_detections

__all__ = [
    "CocoMetric",
    "CocoResult",
    "Difference",
    "ErrorBreakdown",
    "Interval",
    "VocMetric",
    "VocResult",
    "WorstImage",
    "bootstrap_coco",
    "bootstrap_difference",
    "break_down_errors",
    "coco_results",
    "evaluate_coco",
    "evaluate_voc",
    "load_detections",
    "load_ground_truth",
    "read_voc_detections",
    "worst_images",
    "write_voc_detections",
]
