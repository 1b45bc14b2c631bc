"""Write detections as label files of COCO, VOC and YOLO, to be corrected in a labelling tool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ssdnorm.cli.frames import is_video
from ssdnorm.files import write_json, write_text
from ssdnorm.messages import unknown_name


def check_labels(words: str | None, sources: Sequence[Path | int]) -> list[str]:
    """The formats in ``coco,voc,yolo``; refuses videos, and pictures whose label files would have one name."""
    if words is None:
        return []
    formats = [word.strip() for word in words.split(",")]
    for name in formats:
        if name not in _WRITERS:
            raise ValueError(f"--labels: {unknown_name('format', name, _WRITERS)}")
    for source in sources:
        if is_video(source):
            raise ValueError(f"--labels: are for pictures; {source} is a video or camera")
    twice = [stem for stem, count in Counter(Path(str(source)).stem for source in sources).items() if count > 1]
    if twice and set(formats) != {"coco"}:
        raise ValueError(f"--labels: two pictures are called {twice[0]}; their label files would have one name")
    return formats


def write_labels(
    folder: Path, formats: Sequence[str], entries: Sequence[dict[str, Any]], class_names: Sequence[str]
) -> list[Path]:
    """Write ``coco.json``, a folder ``voc`` of XML files, or a folder ``yolo`` of text files with its ``data.yaml``.

    Args:
        entries: of ``detections.json``, with ``width`` and ``height``.
    """
    return [write(folder, entries, class_names) for name, write in _WRITERS.items() if name in formats]


def _write_coco(folder: Path, entries: Sequence[dict[str, Any]], class_names: Sequence[str]) -> Path:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, entry in enumerate(entries, 1):
        size = {"width": entry["width"], "height": entry["height"]}
        images.append({"id": image_id, "file_name": Path(entry["file_name"]).name, **size})
        for found in entry["detections"]:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": class_names.index(found["class"]) + 1,
                "bbox": found["bbox"],
                "area": found["bbox"][2] * found["bbox"][3],
                "iscrowd": 0,
                "score": found["score"],
            }
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, 1)]
    path = folder / "coco.json"
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return path


def _write_voc(folder: Path, entries: Sequence[dict[str, Any]], class_names: Sequence[str]) -> Path:
    """The devkit's pixels: whole numbers from 1, the last one inside the box."""
    for entry in entries:
        name = Path(entry["file_name"]).name
        root = ElementTree.Element("annotation")
        _add(root, "filename", name)
        size = ElementTree.SubElement(root, "size")
        for key, value in (("width", entry["width"]), ("height", entry["height"]), ("depth", 3)):
            _add(size, key, value)
        for found in entry["detections"]:
            x, y, w, h = found["bbox"]
            item = ElementTree.SubElement(root, "object")
            _add(item, "name", found["class"])
            _add(item, "difficult", 0)
            box = ElementTree.SubElement(item, "bndbox")
            left, top = round(x) + 1, round(y) + 1
            corners = (left, top, max(left, round(x + w)), max(top, round(y + h)))
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                _add(box, key, value)
        ElementTree.indent(root)
        write_text(folder / "voc" / f"{Path(name).stem}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")
    return folder / "voc"


def _write_yolo(folder: Path, entries: Sequence[dict[str, Any]], class_names: Sequence[str]) -> Path:
    """One line per box: class from 0, centre and size as shares of the picture."""
    import yaml

    for entry in entries:
        width, height, lines = entry["width"], entry["height"], []
        for found in entry["detections"]:
            x, y, w, h = found["bbox"]
            numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            lines.append(f"{class_names.index(found['class'])} " + " ".join(f"{n:.6f}" for n in numbers) + "\n")
        write_text(folder / "yolo" / f"{Path(entry['file_name']).stem}.txt", "".join(lines))
    write_text(folder / "yolo" / "data.yaml", yaml.safe_dump({"names": dict(enumerate(class_names))}))
    return folder / "yolo"


_WRITERS = {"coco": _write_coco, "voc": _write_voc, "yolo": _write_yolo}


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
