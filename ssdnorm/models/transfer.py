"""Fine-tuning: load a checkpoint into a model with other norms or other classes, and freeze layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ssdnorm.boxes.default_boxes import default_box_spec
from ssdnorm.messages import unknown_name
from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.class_names import same_class
from ssdnorm.models.ssd import SSD
from ssdnorm.models.tensor_files import Shapes, check_shapes, first_few, is_norm_key, shapes_of
from ssdnorm.norm_specs import norm_kind

_SAME_TENSORS = {"frozen_batch_norm": "batch_norm", "sync_batch_norm": "batch_norm"}


def transfer_weights(
    checkpoint: Checkpoint,
    model: SSD,
    *,
    head: Literal["keep", "extend", "fresh"] = "keep",
    class_names: Sequence[str] | None = None,
    where: str = "checkpoint",
) -> list[str]:
    """Load a checkpoint by name, strictly except for norms and, with a fresh head, all that depends on the input size.

    A norm is loaded where the model has the same norm in the same place (batch, frozen and synchronised batch norm are
    the same here). Elsewhere the model's norm keeps its initial values and the file's is skipped. A frozen batch norm
    starts as the identity, so inserting it does not change the outputs. With a fresh head the file may be of another
    input size or have other default boxes: extra layers and offsets are loaded where name and shape agree.

    Args:
        head: ``keep`` loads the class outputs too; ``extend`` loads those of the background and of the checkpoint's
            classes, and keeps the model's initial ones for the others; ``fresh`` keeps all initial ones.
        class_names: of the data; with ``keep`` they must be the checkpoint's, with ``extend`` those and more. None
            skips this check.

    Returns:
        Notes, one line each: what was not loaded, and what changes the meaning of the weights.

    Raises:
        ValueError: other classes, other default boxes, missing, unexpected or wrongly shaped tensors.
    """
    if head not in ("keep", "extend", "fresh"):
        raise ValueError(f"head: must be keep, extend or fresh; got {head!r}")
    if head == "keep" and class_names is not None:
        _check_classes(checkpoint, class_names, where)
    notes = _check_boxes(checkpoint, model, head, where)
    initial = model.state_dict()
    file = dict(checkpoint.state)
    if head == "extend":
        file |= _extended_logits(checkpoint, initial, class_names or (), where)
    theirs, ours = checkpoint.model, model.arguments or {}

    shapes, initial_shapes = shapes_of(file), shapes_of(initial)

    def kept_apart(keys: Shapes, others: Shapes) -> list[str]:
        return [
            key
            for key, shape in keys.items()
            if (is_norm_key(key) and _norm_at(theirs, key) != _norm_at(ours, key))
            or (key.endswith(".num_batches_tracked") and key not in others)  # frozen batch norm has none
            or (head == "fresh" and key.startswith("head.logits."))
            or (head == "fresh" and not key.startswith("features.backbone.") and others.get(key) != shape)
        ]

    dropped, fresh = kept_apart(shapes, initial_shapes), kept_apart(initial_shapes, shapes)
    state = {key: tensor for key, tensor in file.items() if key not in set(dropped)}
    state |= {key: initial[key] for key in fresh}
    check_shapes(initial_shapes, shapes_of(state), where=where)
    model.load_state_dict(state)
    for name, keys in (("not loaded from the file", dropped), ("initial values kept in the model", fresh)):
        if keys:
            modules = dict.fromkeys(key.rsplit(".", 1)[0].removeprefix("features.") for key in keys)
            notes.append(f"{where}: {name}: {len(keys)} tensors, {first_few(list(modules))}")
    return notes


def _check_classes(checkpoint: Checkpoint, class_names: Sequence[str], where: str) -> None:
    theirs = checkpoint.class_names
    if len(theirs) == len(class_names) and all(map(same_class, theirs, class_names)):
        return
    held = all(any(same_class(name, other) for other in theirs) for name in class_names)
    select = f"select the classes {','.join(class_names)} from the checkpoint first, or " if held else ""
    raise ValueError(
        f"{where}: head: keep: the checkpoint has {len(theirs)} classes ({first_few(theirs)}), the data "
        f"{len(class_names)} ({first_few(class_names)}); {select}use head: fresh"
    )


def _extended_logits(
    checkpoint: Checkpoint, initial: Mapping[str, Tensor], class_names: Sequence[str], where: str
) -> dict[str, Tensor]:
    """The model's initial class outputs with those of the checkpoint in the rows of its classes, by tensor name."""
    old, rows = checkpoint.class_names, [0]
    for name in old:
        place = next((i for i, other in enumerate(class_names, 1) if same_class(name, other)), None)
        if place is None:
            raise ValueError(f"{where}: head: extend: the data has no class {name!r}; name it in data.class_names, too")
        rows.append(place)
    if len(class_names) == len(old):
        raise ValueError(f"{where}: head: extend: the data has no class beyond the checkpoint's; use head: keep")
    logits = {}
    for key in (key for key in initial if key.startswith("head.logits.")):
        by_box = initial[key].clone().unflatten(0, (-1, 1 + len(class_names)))
        by_box[:, rows] = checkpoint.state[key].unflatten(0, (-1, 1 + len(old))).to(by_box)
        logits[key] = by_box.flatten(0, 1)
    return logits


def freeze_layers(model: SSD, names: Sequence[str], *, where: str = "freeze") -> None:
    """Keep the weights of some layers: their parameters need no gradient from now on.

    Args:
        names: layers (conv4_3, fc6, conv8_1) or stages (conv1 stands for conv1_1 and conv1_2).

    Raises:
        ValueError: an unknown name, or a layer with batch norm, whose running statistics would go on changing.
    """
    rooms = [model.features.get_submodule(room) for room in ("backbone", "extras")]
    blocks = {name: block for room in rooms for name, block in room.named_children()}
    stages = dict.fromkeys(name.partition("_")[0] for name in blocks)
    for wanted in names:
        chosen = [name for name in blocks if wanted in (name, name.partition("_")[0])]
        if not chosen:
            raise ValueError(f"{where}: {unknown_name('layer', wanted, dict.fromkeys((*stages, *blocks)))}")
        for name in chosen:
            blocks[name].requires_grad_(False)
            if any(isinstance(module, _BatchNorm) for module in blocks[name].modules()):
                raise ValueError(
                    f"{where}: {name} has batch norm, whose statistics would go on changing; choose frozen_batch_norm"
                )


def _check_boxes(checkpoint: Checkpoint, model: SSD, head: str, where: str) -> list[str]:
    theirs, ours = default_box_spec(checkpoint.model["default_boxes"]), model.spec
    differing = [field.name for field in fields(ours) if getattr(theirs, field.name) != getattr(ours, field.name)]
    if "image_size" in differing:
        differing = ["image_size"]  # the others follow from it
    told = "; ".join(f"{k} {getattr(theirs, k)} in the file, {getattr(ours, k)} in the model" for k in differing)
    if set(differing) <= {"clip"}:
        return [f"{where}: default boxes: {told}"] if told else []
    if head != "fresh":
        raise ValueError(
            f"{where}: other default boxes: {told}; build the model with those of the file, or use head: fresh"
        )
    return [f"{where}: other default boxes: {told}; the offsets must be learnt again"]


def _norm_at(arguments: Mapping[str, Any], key: str) -> str:
    """The kind of norm that a network has where this tensor belongs."""
    part, name = key.split(".")[1:3]
    specs = (arguments.get("tap_norms") or {}) if part == "tap_norms" else {name: arguments.get(f"{part}_norm", "none")}
    kind = norm_kind(specs.get(name, "none"))
    return _SAME_TENSORS.get(kind, kind)
