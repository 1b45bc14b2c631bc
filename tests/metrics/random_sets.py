"""Small random data sets: overlaps, equal scores, crowd regions, ids with holes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Truth = dict[str, Any]
Found = list[dict[str, Any]]


def draw_set(
    seed: int,
    *,
    num_images: int = 6,
    num_classes: int = 3,
    num_objects: int = 40,
    num_detections: int = 150,
    tied: bool = False,
    crowd: float = 0.0,
    difficult: float = 0.0,
    span: int = 200,
) -> tuple[Truth, Found]:
    """Half of the detections are moved copies of objects; with ``tied`` there are five different scores."""
    rng = np.random.default_rng(seed)
    image_ids = (rng.permutation(num_images) * 3 + 1).tolist()
    category_ids = (rng.permutation(num_classes) * 2 + 5).tolist()

    def box() -> list[float]:
        return [float(v) for v in np.r_[rng.integers(0, span, 2), rng.integers(1, span, 2)] / 2]

    annotations = []
    for n in range(num_objects):
        b = box()
        annotations.append(
            {
                "id": n,  # starts at 0 on purpose
                "image_id": int(rng.choice(image_ids)),
                "category_id": int(rng.choice(category_ids)),
                "bbox": b,
                "area": b[2] * b[3] * float(rng.choice([1.0, 0.6])),
                "iscrowd": int(rng.random() < crowd),
                "difficult": int(rng.random() < difficult),
            }
        )
    detections = []
    for _ in range(num_detections):
        score = float(rng.integers(1, 6) / 5) if tied else float(rng.random())
        row = {"image_id": int(rng.choice(image_ids)), "category_id": int(rng.choice(category_ids)), "bbox": box()}
        if annotations and rng.random() < 0.6:
            source = annotations[rng.integers(len(annotations))]
            moved = np.array(source["bbox"]) + rng.integers(-3, 4, 4) * (0 if tied and rng.random() < 0.3 else 1)
            row["bbox"] = [float(v) for v in np.r_[moved[:2], np.maximum(moved[2:], 0.5)]]
            row["image_id"] = source["image_id"]
            if rng.random() < 0.8:
                row["category_id"] = source["category_id"]
        detections.append({**row, "score": score})
    truth = {
        "images": [{"id": i, "file_name": f"photo_{i:03d}.jpg"} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
        "annotations": annotations,
    }
    return truth, detections


def as_tensors(truth: Truth, found: Found) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Detections and target of each image as torchvision writes them; labels in the order of the category ids."""
    label = {c: n for n, c in enumerate(sorted(c["id"] for c in truth["categories"]), 1)}

    def columns(image_id: int, rows: list[dict[str, Any]], **keys: str) -> dict[str, torch.Tensor]:
        rows = [row for row in rows if row["image_id"] == image_id]
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        more = {name: torch.tensor([row[key] for row in rows], dtype=torch.float64) for name, key in keys.items()}
        labels = torch.tensor([label[row["category_id"]] for row in rows], dtype=torch.int64)
        return {"boxes": boxes, "labels": labels, **more}

    flags = {key: key for key in ("area", "iscrowd", "difficult")}
    return [
        (columns(i, found, scores="score"), {**columns(i, truth["annotations"], **flags), "image_id": i})
        for i in (image["id"] for image in truth["images"])
    ]
