"""COCO and VOC metrics of detections, from any source: what is right, how sure the number is, and where it fails."""

from ssdnorm.coco_format import load_detections, load_ground_truth
from ssdnorm.metrics.bootstrap import Difference, Interval, bootstrap_coco, bootstrap_difference
from ssdnorm.metrics.coco import CocoMetric, CocoResult, evaluate_coco
from ssdnorm.metrics.errors import ErrorAnalysis, ErrorBreakdown, f_scores
from ssdnorm.metrics.voc import VocMetric, VocResult, evaluate_voc
from ssdnorm.metrics.voc_files import read_voc_detections, write_voc_detections
from ssdnorm.metrics.worst import Outcomes, WorstImage, find_outcomes, worst_images

__all__ = [
    "CocoMetric",
    "CocoResult",
    "Difference",
    "ErrorAnalysis",
    "ErrorBreakdown",
    "Interval",
    "Outcomes",
    "VocMetric",
    "VocResult",
    "WorstImage",
    "bootstrap_coco",
    "bootstrap_difference",
    "evaluate_coco",
    "evaluate_voc",
    "f_scores",
    "find_outcomes",
    "load_detections",
    "load_ground_truth",
    "read_voc_detections",
    "worst_images",
    "write_voc_detections",
]
