"""Columns of COCO's rows as checked arrays: ids, names, sizes, boxes, numbers, flags; each linear in its length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ssdnorm.messages import shown
from ssdnorm.tables import LARGEST_PX, id_array

Rows = Sequence[Mapping[str, Any]]
_UNUSABLE = re.compile("[\x00-\x1f\ud800-\udfff]")  # control characters, halves of surrogates
_LARGEST_SIZE = 2**31  # pixels along a side


def rows_of(content: Mapping[str, Any], key: str) -> Rows:
    """The list of dicts under a key; ``ValueError`` if it is missing or something else."""
    rows = content.get(key)
    if not isinstance(rows, Sequence):
        raise ValueError(f"ground truth: {key!r} is missing or not a list; got keys {shown(list(content))}")
    check_dicts(rows, key)
    return rows


def check_dicts(rows: Any, where: str) -> None:
    """Raise ``ValueError`` for anything but a list of dicts."""
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise ValueError(f"{where}: got {type(rows).__name__}, allowed: a list of dicts")
    if set(map(type, rows)) - {dict}:
        for place, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise ValueError(f"{where}[{place}]: got {type(row).__name__}, allowed: a dict")


def unique_ids(rows: Rows, where: str) -> np.ndarray:
    """The rows' ids as :func:`id_array` makes them; ``ValueError`` unless all are different whole numbers, or texts."""
    seen: set[Any] = set()
    for place, row in enumerate(rows):
        if "id" not in row:
            raise ValueError(f"{where}[{place}]: 'id' is missing; got keys {shown(list(row))}")
        value = row["id"]
        if not isinstance(value, int | np.integer | str) or isinstance(value, bool):
            raise ValueError(f"{where}[{place}]: id: got {shown(value)}, allowed: a whole number, or text")
        if isinstance(value, str) != isinstance(rows[0]["id"], str):
            raise ValueError(f"{where}[{place}]: id: got {shown(value)}, but {shown(rows[0]['id'])} before it")
        if value in seen:
            raise ValueError(f"{where}: id {shown(value)} is given twice")
        seen.add(value)
    return id_array([row["id"] for row in rows])


def class_names(categories: Rows) -> tuple[str, ...]:
    """The categories' names, by default their ids; one that two categories share gets the id appended."""
    names = text_column(categories, "name", "categories", [str(row["id"]) for row in categories])
    counts = Counter(names)
    ids = [row["id"] for row in categories]
    names = [name if counts[name] == 1 else f"{name} (id {own})" for name, own in zip(names, ids, strict=True)]
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"categories: name {shown(twice)} is given twice")
    return tuple(names)


def is_one_line(text: str) -> bool:
    """Whether text has no control characters and no halves of surrogates, so that it can be shown and saved."""
    return text.isprintable() or not _UNUSABLE.search(text)


def text_column(rows: Rows, key: str, where: str, defaults: Sequence[str]) -> list[str]:
    """Text without control characters, empty only where the default is; ``ValueError`` for anything else."""
    values = []
    for place, (row, default) in enumerate(zip(rows, defaults, strict=True)):
        value = row.get(key, default)
        if not isinstance(value, str) or not is_one_line(value) or (default and not value):
            raise ValueError(f"{where}[{place}]: {key}: got {shown(value)}, allowed: text")
        values.append(value)
    return values


def size_array(images: Rows) -> np.ndarray:
    """Height and width ``(N, 2)`` int64 of the images, 0 where unknown; ``ValueError`` for parts of pixels."""
    columns = []
    for key in ("height", "width"):
        values = float_array([row.get(key) or 0 for row in images])
        good = (values >= 0) & (values < _LARGEST_SIZE) & (values == np.floor(values))
        if not good.all():
            place = int(np.argmin(good))
            got = shown(images[place].get(key))
            raise ValueError(f"images[{place}]: {key}: got {got}, allowed: a whole number of pixels, or 0 if unknown")
        columns.append(values.astype(np.int64))
    return np.stack(columns, 1)


def flag_array(values: Sequence[Any]) -> np.ndarray:
    """``(N,)`` int64: 1 for 1 or true, 0 for 0, false or None, −1 for anything else."""
    known: dict[Any, int] = {0: 0, 1: 1, None: 0}
    try:
        return np.array([known.get(value, -1) for value in values], np.int64)
    except TypeError:  # lists or dicts among them
        return np.array([known.get(v, -1) if isinstance(v, int | float | None) else -1 for v in values], np.int64)


def places_of(ids: Any, known: np.ndarray) -> np.ndarray:
    """Where each id stands among the known ones, −1 for one that is not there; ``(N,)`` int64."""
    is_array = isinstance(ids, np.ndarray)
    if known.dtype != object and len(known) and (is_array or set(map(type, ids)) <= {int}):
        numbers = ids if is_array else np.asarray(ids)
        if numbers.dtype.kind in "iu" and np.can_cast(numbers.dtype, np.int64):
            order = np.argsort(known, kind="stable")
            found = order[np.searchsorted(known[order], numbers).clip(max=len(known) - 1)]
            return np.where(known[found] == numbers, found, -1)
    index = {name: place for place, name in enumerate(known.tolist())}
    simple = (int, str, float, np.integer)
    values = ids.tolist() if is_array else ids
    return np.array(
        [index.get(v, -1) if isinstance(v, simple) and not isinstance(v, bool) else -1 for v in values], np.int64
    )


def box_array(values: Any) -> np.ndarray:
    """Boxes as ``(N, 4)`` float64, NaN where one is not four numbers."""
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 4:
        return float_array(values.reshape(-1)).reshape(-1, 4)
    try:
        if set(map(len, values)) <= {4}:
            return float_array(list(chain.from_iterable(values))).reshape(-1, 4)  # four times faster than nested lists
    except TypeError:  # None among them
        pass
    rows = [box if isinstance(box, list | tuple | np.ndarray) and len(box) == 4 else [np.nan] * 4 for box in values]
    return float_array(list(chain.from_iterable(rows))).reshape(-1, 4)


def are_boxes(rows: np.ndarray) -> np.ndarray:
    """Which boxes ``(N, 4)`` have four finite numbers below 1e9, and no negative width or height."""
    return (np.abs(rows) < LARGEST_PX).all(axis=1) & (rows[:, 2:] >= 0).all(axis=1)


def float_array(values: Any) -> np.ndarray:
    """Numbers as float64; NaN where one is something else (text, bool, None) or too large."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values.astype(np.float64)
    try:
        if set(map(type, values)) <= {int, float}:
            return np.array(values, np.float64)
    except OverflowError:
        pass
    return np.array([_number(value) for value in values], np.float64)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else np.nan
    except OverflowError:
        return np.nan


def describe(
    row: Mapping[str, Any], has_image: bool, has_category: bool, box: np.ndarray, number: str
) -> tuple[str, str]:
    """Kind and message of the first thing that is wrong with an annotation or a detection."""
    if not has_image:
        return "no image", f"image_id {shown(row.get('image_id'))} is not among the images"
    if not has_category:
        return "class", f"category_id {shown(row.get('category_id'))} is not among the categories"
    got = shown(row.get("bbox"))
    if not (np.abs(box) < LARGEST_PX).all():
        return "not finite", f"bbox: got {got}, allowed: four finite numbers x, y, width, height, below 1e9"
    if (box[2:] < 0).any():
        return "inverted", f"bbox: got {got}, allowed: width and height of at least 0 (not xyxy)"
    for key in ("iscrowd", "difficult"):
        if flag_array([row.get(key)])[0] < 0:
            return "object", f"{key}: got {shown(row[key])}, allowed: 0 or 1"
    least = " of at least 0" if number == "area" else ""
    return "object", f"{number}: got {shown(row.get(number))}, allowed: a finite number{least}"
