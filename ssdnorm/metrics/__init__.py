"""COCO and VOC metrics."""
