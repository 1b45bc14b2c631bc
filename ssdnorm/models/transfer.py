"""This file is about fine-tuning: a checkpoint's weights into a model with other norms, or with other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ssdnorm.boxes.default_boxes import default_box_spec
from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.class_names import same_class
from ssdnorm.models.key_report import is_norm_key, report_mismatch
from ssdnorm.models.ssd import SSD

_COUNT = ".num_batches_tracked"
_ONE_KIND = {"frozen_batch_norm": "batch_norm", "sync_batch_norm": "batch_norm"}  # share their tensors


def transfer_weights(
    checkpoint: Checkpoint,
    model: SSD,
    *,
    head: Literal["keep", "fresh"] = "keep",
    class_names: Sequence[str] | None = None,
    where: str = "checkpoint",
) -> list[str]:
    """Load a checkpoint by names; strict about everything but norms and, with a fresh head, the class outputs.

    A norm is loaded where the model has the same norm in the same place (batch norms, frozen and synchronised ones
    share theirs). Elsewhere the model's norm keeps its initial values and the file's is left out. A frozen batch norm
    begins as the identity, so a network with them inserted gives the same outputs as before.

    Args:
        head: ``keep`` loads the class outputs too; ``fresh`` leaves them as drawn and loads all the rest.
        class_names: of the data; with ``keep`` they must be the checkpoint's. None is not checked.

    Returns:
        What was left out or changes the meaning of the weights, a line each.

    Raises:
        ValueError: for other classes, default boxes of other sizes, missing, unexpected or wrongly shaped tensors.
    """
    if head not in ("keep", "fresh"):
        raise ValueError(f"model.head: must be keep or fresh; got {head!r}")
    if head == "keep" and class_names is not None:
        _check_classes(checkpoint, class_names, where)
    notes = _check_boxes(checkpoint, model, head, where)
    initial = model.state_dict()
    expected = {key: tuple(tensor.shape) for key, tensor in initial.items()}
    file = dict(checkpoint.state)
    theirs, ours = checkpoint.model, model.arguments or {}
    dropped = [key for key in file if is_norm_key(key) and _norm_at(theirs, key) != _norm_at(ours, key)]
    fresh = [key for key in expected if is_norm_key(key) and _norm_at(theirs, key) != _norm_at(ours, key)]
    # how many batches a batch norm has seen is not counted by a frozen one
    dropped += [key for key in file if key.endswith(_COUNT) and key not in expected and key not in dropped]
    fresh += [key for key in expected if key.endswith(_COUNT) and key not in file and key not in fresh]
    if head == "fresh":
        dropped += [key for key in file if key.startswith("head.logits.")]
        fresh += [key for key in expected if key.startswith("head.logits.")]
    state = {key: tensor for key, tensor in file.items() if key not in set(dropped)}
    state |= {key: initial[key] for key in fresh}
    if problem := report_mismatch(expected, {key: tuple(t.shape) for key, t in state.items()}, where=where):
        raise ValueError(problem)
    model.load_state_dict(state)
    for name, keys in (("left out of the file", dropped), ("kept as drawn in the model", fresh)):
        if keys:
            notes.append(f"{where}: {name}: {len(keys)} tensors, {_places(keys)}")
    return notes


def _check_classes(checkpoint: Checkpoint, class_names: Sequence[str], where: str) -> None:
    theirs = list(checkpoint.class_names)
    if len(theirs) == len(class_names) and all(map(same_class, theirs, class_names)):
        return
    held = all(any(same_class(name, other) for other in theirs) for name in class_names)
    way = (
        f"pick them with convert.py --classes {','.join(class_names)}, or take model.head: fresh"
        if held
        else "take model.head: fresh"
    )
    raise ValueError(
        f"{where}: model.head: keep: the checkpoint has {len(theirs)} classes ({_short(theirs)}), the data "
        f"{len(class_names)} ({_short(class_names)}); {way}"
    )


def _check_boxes(checkpoint: Checkpoint, model: SSD, head: str, where: str) -> list[str]:
    theirs, ours = default_box_spec(checkpoint.model["default_boxes"]), model.spec
    if replace(theirs, clip="none") == replace(ours, clip="none"):
        if theirs.clip == ours.clip:
            return []
        return [f"{where}: default boxes clipped: {theirs.clip} in the file, {ours.clip} in the model"]
    sizes = f"{theirs.min_sizes} in the file, {ours.min_sizes} in the model"
    if head == "keep":
        raise ValueError(
            f"{where}: other default boxes, sizes {sizes}; set model.default_boxes: null to take the file's"
        )
    return [f"{where}: other default boxes, sizes {sizes}: the offsets have to be learnt anew"]


def _norm_at(arguments: Mapping[str, Any], key: str) -> str:
    """Which norm a network has at the place of a norm's tensor."""
    part, name = key.split(".")[1:3]
    spec = (
        (arguments.get("tap_norms") or {}).get(name, "none")
        if part == "tap_norms"
        else arguments.get("backbone_norm" if part == "backbone" else "extras_norm", "none")
    )
    kind = spec if isinstance(spec, str) else str(spec["kind"])
    return _ONE_KIND.get(kind, kind)


def _places(keys: Sequence[str]) -> str:
    modules = dict.fromkeys(key.rsplit(".", 1)[0].removeprefix("features.") for key in keys)
    return _short(list(modules))


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
