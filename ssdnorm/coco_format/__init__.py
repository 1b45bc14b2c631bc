"""Read and write COCO's two formats: instances (ground truth) and results (detections)."""

from ssdnorm.coco_format.files import load_detections, load_ground_truth
from ssdnorm.coco_format.read import OnBad, detection_table, ground_truth_table, refuse
from ssdnorm.coco_format.write import coco_dict, result_rows

__all__ = [
    "OnBad",
    "coco_dict",
    "detection_table",
    "ground_truth_table",
    "load_detections",
    "load_ground_truth",
    "refuse",
    "result_rows",
]
