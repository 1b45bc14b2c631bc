"""Hostile data: VOC's XML, COCO's instances, detections in both formats, images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2
import numpy as np
import yaml
from hypothesis import strategies as st

from ssdnorm.coco_format import detection_table, ground_truth_table, load_detections, load_ground_truth
from ssdnorm.data.coco import CocoDataset
from ssdnorm.data.images import EncodedImage, check_image_file
from ssdnorm.data.voc import VocDataset
from ssdnorm.data.yolo import YoloDataset
from ssdnorm.metrics.voc_files import read_voc_detections
from tests.data.small_sets import VocFolder, smooth_photo, voc_object
from tests.fuzz.mutations import damaged, mutated

_ANNOTATION: dict[str, Any] = {
    "size": {"width": "40", "height": "30", "depth": "3"},
    "object": [
        {"name": name, "difficult": "0", "bndbox": {"xmin": "2", "ymin": "3", "xmax": "20", "ymax": "25"}}
        for name in ("cat", "dog")
    ],
}
INSTANCES: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40},
        {"id": 2, "file_name": "b.jpg", "height": 30, "width": 40},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 12], "area": 120.0, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [1.5, 2, 10, 12], "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 3, "image_id": 2, "category_id": 7, "bbox": [0, 0, 9, 9], "segmentation": {"counts": "a]", "size": [9]}},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog", "supercategory": "animal"}],
}
DETECTIONS: list[dict[str, Any]] = [
    {"image_id": 1, "category_id": 3, "bbox": [1.0, 2.0, 10.0, 12.0], "score": 0.9},
    {"image_id": 2, "category_id": 7, "bbox": [1, 2, 10, 12], "score": 1},
    {"image_id": 2, "category_id": 7, "bbox": [0.5, 0.5, 3, 4], "score": 0.25, "segmentation": {"size": [1, 2]}},
]
_COMP4 = b"a 0.9 2 3 12 14\nb 0.25 1 1 9 9\n"


def json_bytes(value: Any) -> bytes:
    """JSON with NaN and lone surrogates as Python writes them; what Python cannot write is left to damaged bytes."""
    return json.dumps(value).encode()


def json_cases(tree: Any) -> st.SearchStrategy[bytes]:
    return mutated(tree).map(json_bytes) | damaged(json_bytes(tree))


def to_xml(value: Any, tag: str = "annotation") -> str:
    """A tree of mappings and lists as XML; a list repeats its tag."""
    if isinstance(value, list):
        return "".join(to_xml(item, tag) for item in value)
    inner = "".join(to_xml(item, str(key)) for key, item in value.items()) if isinstance(value, Mapping) else None
    return f"<{tag}>{escape(str(value)) if inner is None else inner}</{tag}>"


def xml_bytes(tree: Any) -> bytes:
    return to_xml(tree).encode("utf-8", "surrogatepass")


def read_xml(case: bytes, folder: Path) -> object:
    root = folder / "voc"
    if not root.exists():
        VocFolder(root).add("b", voc_object("dog", 1, 1, 9, 9))
        VocFolder.add(_Existing(root), "a")
    (root / "Annotations" / "a.xml").write_bytes(case)
    return [VocDataset(root, "train", check_images=check).training_boxes(0) for check in (True, False)]


class _Existing(VocFolder):
    def __init__(self, root: Path) -> None:
        self.root = root


YOLO: dict[str, Any] = {"path": ".", "train": "images", "val": ["images"], "names": {0: "cat", 1: "dog"}, "nc": 2}
YOLO_LABELS = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.4 0.1 0.4 0.4\n"


def yolo_cases() -> st.SearchStrategy[tuple[bytes, bytes]]:
    tree = mutated(YOLO).map(lambda changed: yaml.dump(changed).encode("utf-8", "surrogatepass"))
    files = tree | damaged(yaml.dump(YOLO).encode())
    return st.tuples(files, st.just(YOLO_LABELS)) | st.tuples(st.just(yaml.dump(YOLO).encode()), damaged(YOLO_LABELS))


def read_yolo(case: tuple[bytes, bytes], folder: Path) -> object:
    root = folder / "yolo"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "images" / "a.jpg").write_bytes(JPEG)
    (root / "data.yaml").write_bytes(case[0])
    (root / "labels" / "a.txt").write_bytes(case[1])
    return YoloDataset(root / "data.yaml", "train").training_boxes(0)


def read_coco(case: bytes, folder: Path) -> object:
    images = folder / "images"
    if not images.exists():
        images.mkdir()
        for name in ("a.jpg", "b.jpg"):
            (images / name).write_bytes(JPEG)
    path = folder / "instances.json"
    path.write_bytes(case)
    dataset = CocoDataset(path, images)
    for i in range(len(dataset)):
        dataset.training_boxes(i), dataset.image_size(i), dataset.image_id(i)
    assert all(isinstance(name, str) and name for name in dataset.class_names)
    assert (dataset.ground_truth.sizes > 0).all()
    return load_ground_truth(path)


def read_detections(case: bytes, folder: Path) -> object:
    path = folder / "detections.json"
    path.write_bytes(case)
    truth = ground_truth_table(INSTANCES)
    table = load_detections(path, truth)
    assert np.isfinite(table.scores).all()
    return detection_table(json.loads(case), truth)


def read_comp4(case: bytes, folder: Path) -> object:
    (folder / "comp4").mkdir(exist_ok=True)
    (folder / "comp4" / "comp4_det_test_cat.txt").write_bytes(case)
    return read_voc_detections(folder / "comp4", INSTANCES)


def _encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, smooth_photo(30, 40))[1].tobytes()


JPEG = _encoded(".jpg")
_IMAGES = [JPEG, _encoded(".png"), _encoded(".bmp"), _encoded(".webp"), _encoded(".tiff")]


def read_image(case: bytes, folder: Path) -> object:
    path = folder / "image.jpg"
    path.write_bytes(case)
    image = EncodedImage.read(path)
    pixels = [image.decode(reduction) for reduction in image.reductions]
    return check_image_file(path), image.size, pixels


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its data does not have."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
        + chunk(b"IEND", b"")
    )


def with_rows(key: str, **changes: Any) -> dict[str, Any]:
    """INSTANCES with the first row of a list changed."""
    return {**INSTANCES, key: [{**INSTANCES[key][0], **changes}, *INSTANCES[key][1:]]}


DEEP = b"[" * 100_000
XML_CASES = mutated(_ANNOTATION).map(xml_bytes) | damaged(xml_bytes(_ANNOTATION))
COCO_CASES = json_cases(INSTANCES)
DETECTION_CASES = json_cases(DETECTIONS)
COMP4_CASES = damaged(_COMP4)
IMAGE_CASES = st.sampled_from(_IMAGES).flatmap(damaged)

COCO_FOUND = [
    json_bytes(with_rows("categories", name=["cat"])),
    json_bytes(with_rows("categories", name={"a": 1})),
    json_bytes(with_rows("categories", name=5)),
    json_bytes(with_rows("categories", id=[3])),
    json_bytes(with_rows("images", id={"a": 1})),
    json_bytes(with_rows("images", id=True)),
    json_bytes(with_rows("images", height=-5)),
    json_bytes(with_rows("images", width=10**400)),
    json_bytes(with_rows("annotations", area=10**400)),
    json_bytes(with_rows("annotations", image_id=[1])),
    json_bytes({**INSTANCES, "images": [{"id": i // 2, "file_name": "a.jpg"} for i in range(100_000)]}),
    json_bytes({**INSTANCES, "categories": [{"id": i, "name": str(i)} for i in range(100_000)]}),
    b'{"images": [], "categories": [], "annotations": [' + b'"segmentation":[' * 200_000,
    b'{"images": ' + DEEP,
    DEEP,
    json_bytes(with_rows("images", id=int("9" * 4000))),
    b'{"images": ' + b"9" * 5000 + b"}",
]
DETECTIONS_FOUND = [DEEP, b"[" + b"9" * 5000 + b"]", json_bytes([{**DETECTIONS[0], "score": 10**400}])]
XML_FOUND = [b"<a>" * 100_000, b"<annotation>" + b"<object>" * 9000 + b"</object>" * 9000 + b"</annotation>"]
_HUGE_BOX = {"xmin": "2", "ymin": "3", "xmax": "1e200", "ymax": "1e200"}
XML_FOUND += [xml_bytes({**_ANNOTATION, "object": {"name": "cat", "bndbox": _HUGE_BOX}})]
YOLO_FOUND = [(yaml.dump(YOLO).encode(), b"1e999 0.5 0.5 0.25 0.25"), (b"[" * 5000, b""), (b"names: &a [*a]", b"")]
YOLO_FOUND += [(yaml.dump({**YOLO, "train": "x" * 5000}).encode(), b"")]
YOLO_FOUND += [
    (yaml.dump({**YOLO, "names": names}).encode(), b"") for names in ([["a"], "b"], {0: "a", "1": "b"}, [None])
]
IMAGES_FOUND = [png_of_size(30_000, 30_000), png_of_size(2**31 - 1, 2**31 - 1), b"", b"P6 99999 99999 255\n"]
