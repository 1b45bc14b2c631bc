"""Images with boxes from Pascal VOC folders: XML annotations, images and split lists."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from ssdnorm.coco_format.columns import is_one_line
from ssdnorm.data.annotated_images import AnnotatedBox, AnnotatedImage, table_of_images
from ssdnorm.data.annotation_checks import Problems, usable_image
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.images import IMAGE_SUFFIXES
from ssdnorm.messages import unknown_name

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocDataset(DetectionDataset):
    """One or more VOC years with their split lists, e.g. VOC2007 trainval and VOC2012 trainval.

    A year is a folder with ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/<split>.txt``. An image is found
    by the name in the list, with any usual suffix in either case; ``<filename>`` in the XML is not read.

    **Pixels.** VOC's corners are 1-based and inclusive. Here they become 0-based edges as in detectron2: xmin − 1 and
    ymin − 1, xmax and ymax kept, so a box from 1 to 500 in an image 500 wide is [0, 500] and the devkit's width
    xmax − xmin + 1 is xmax − xmin. Coordinates may be fractions. A 0 from a 0-based tool is taken for a 1. A box whose
    corners coincide in the file has no area, though the devkit would count one pixel: it is what a stray click leaves.

    Args:
        root: the folder of a year, or several.
        split: name of a list in ``ImageSets/Main`` (``trainval``), or one for each root.
        class_names: without background, in the order of their labels; otherwise all names found in ``Annotations`` of
            the roots, sorted, so that all splits of a folder agree.
        train_on_difficult: whether ``training_boxes`` holds difficult objects; evaluation knows of them either way.
        on_bad_annotation: ``drop`` leaves out bad objects, and images that are missing, truncated or have no readable
            annotations, with a message each; ``error`` refuses them.
        check_images: read every image's header and end while loading (some 50 µs each). Without it a truncated image
            is an error when it is loaded, and the sizes in the XML are trusted.

    Image ids are 1-based places in the lists, images that are left out counted, so that they do not depend on what is
    left out. Ids of annotations count those that are read. Messages count the objects of a file from 0.

    Raises:
        FileNotFoundError: no such folder or list. ValueError: anything else that cannot be used.

    Sources:
        M. Everingham et al., The Pascal Visual Object Classes Challenge, devkit documentation.
        detectron2, data/datasets/pascal_voc.py: the pixel convention.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        split: str | Sequence[str],
        *,
        class_names: Sequence[str] | None = None,
        train_on_difficult: bool = True,
        on_bad_annotation: str = "drop",
        check_images: bool = True,
    ) -> None:
        roots, splits = _listed(root), _listed(split)
        if len(splits) == 1:
            splits = splits * len(roots)
        if len(roots) != len(splits) or not roots:
            got = f"{len(roots)} roots but {len(splits)} splits"
            raise ValueError(f"VocDataset: {got}; give one split for all, or one for each root")
        years = [_Year(path, name, check_images) for path, name in zip(roots, splits, strict=True)]
        problems = Problems(on_bad_annotation, where=" + ".join(f"{year.root.name} {year.split}" for year in years))
        images: list[AnnotatedImage] = []
        first = 1
        for year in years:
            images += year.read_images(first, problems)
            first += len(year.listed)
        if class_names is None:
            names = sorted(set().union(*(year.all_class_names() for year in years)))
        else:
            names = _checked_class_names(class_names, images)
        truth = table_of_images(images, names, problems, one_based=True)
        problems.report()
        paths = [str(image.path) for image in images]
        super().__init__(truth, paths, train_on_difficult=train_on_difficult, problems=problems)


class _Year:
    def __init__(self, root: str | os.PathLike[str], split: str, check_images: bool) -> None:
        self.root = Path(root)
        self.split = split
        self.check_images = check_images
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root}: no such folder; expected a VOC year with Annotations, JPEGImages, ImageSets"
            )
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            if not (self.root / part).is_dir():
                raise FileNotFoundError(
                    f"{self.root}: has no folder {part}; expected a VOC year, e.g. VOCdevkit/VOC2007"
                )
        self.list_file = self.root / "ImageSets" / "Main" / f"{split}.txt"
        if not self.list_file.is_file():
            splits = sorted(path.stem for path in self.list_file.parent.glob("*.txt"))
            raise FileNotFoundError(f"{self.list_file.parent}: {unknown_name('split', split, splits)}")
        lines = self.list_file.read_text(encoding="utf-8-sig").splitlines()
        self.listed = [name for name in map(str.strip, lines) if name]

    def read_images(self, first: int, problems: Problems) -> list[AnnotatedImage]:
        """The images of the list that can be used, counted from ``first``; the others are reported to ``problems``."""
        files = {
            entry.name.rsplit(".", 1)[0]: Path(entry.path)
            for entry in sorted(os.scandir(self.root / "JPEGImages"), key=attrgetter("name"), reverse=True)
            if entry.name.lower().endswith(IMAGE_SUFFIXES)
        }
        images, seen = [], set()
        for number, name in enumerate(self.listed, first):
            if name in seen:
                problems.drop("repeated", f"{self.list_file.name}: {name} is listed twice")
            elif name not in files:
                problems.drop("missing", f"{self.list_file.name}: {name} has no image in {self.root / 'JPEGImages'}")
            elif (image := self._read_image(number, name, files[name], problems)) is not None:
                images.append(image)
            seen.add(name)
        return images

    def all_class_names(self) -> set[str]:
        """The classes of all annotations of the year, whatever the list."""
        names: set[str] = set()
        for path in (self.root / "Annotations").glob("*.xml"):
            try:
                root = _parse(path)
            except ValueError:
                continue  # reported when its image is read
            names.update(name for item in root.iterfind("object") if (name := _name(item)))
        return names

    def _read_image(self, number: int, name: str, path: Path, problems: Problems) -> AnnotatedImage | None:
        where = f"Annotations/{name}.xml"
        try:
            root = _parse(self.root / where)
        except (OSError, ValueError) as error:
            problems.drop("annotations", f"{where}: {error}")
            return None
        size = (_integer(root.findtext("size/height")), _integer(root.findtext("size/width")))
        if self.check_images or min(size) <= 0:
            found = usable_image(path, problems, where=where, annotated=size)
            if found is None:
                return None
            size = found
        boxes = []
        for place, item in enumerate(root.iterfind("object")):
            try:
                boxes.append(_read_object(item, f"{where}: object {place}"))
            except ValueError as error:
                problems.drop("object", f"{where}: object {place}: {error}")
        return AnnotatedImage(number, path, size, boxes)


def _parse(path: Path) -> ElementTree.Element:
    if not path.is_file():
        raise ValueError("no such file")
    data = path.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("document types and entities are refused")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"malformed XML ({error})") from None


def _name(item: ElementTree.Element) -> str:
    """The class, on one line."""
    return " ".join((item.findtext("name") or "").split())


def _read_object(item: ElementTree.Element, where: str) -> AnnotatedBox:
    name = _name(item)
    if not name:
        raise ValueError("has no <name>")
    texts = [item.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    if None in texts:
        raise ValueError(f"({name}) has no <{_CORNERS[texts.index(None)]}>")
    try:
        corners = tuple(float(text or "") for text in texts)
    except ValueError as error:
        raise ValueError(f"({name}) {error}") from None
    shown = f"box ({', '.join(f'{value:g}' for value in corners)})"
    return AnnotatedBox(where, name, corners, (item.findtext("difficult") or "0").strip() == "1", shown)


def _checked_class_names(class_names: Sequence[str], images: list[AnnotatedImage]) -> list[str]:
    names = list(class_names)
    if isinstance(class_names, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"class_names: expected a list of different names; got {class_names!r}")
    if wrong := [name for name in names if not name or not is_one_line(name)]:
        raise ValueError(f"class_names: expected names of one line; got {wrong[0]!r}")
    found = Counter(box.name for image in images for box in image.boxes)
    unlisted = [name for name, _ in found.most_common() if name not in names]
    for name in names:
        # A rare class may be absent from a small split; together with a name that is not listed it is a mistake.
        if name not in found and unlisted:
            raise ValueError(f"class_names: {unknown_name('class', name, found)}")
    return names


def _listed(value: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    return [os.fspath(value)] if isinstance(value, (str, os.PathLike)) else [os.fspath(item) for item in value]


def _integer(text: str | None) -> int:
    """A size in pixels; 0 for what cannot be one, so that the image is asked."""
    try:
        value = int(float(text or 0))
    except (ValueError, OverflowError):
        return 0
    return value if 0 <= value < 2**31 else 0
