"""This file is about key reports: what does not fit between a file's tensors and a model's, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LISTED = 4  # keys named of each group
Shapes = Mapping[str, tuple[int, ...]]


def report_mismatch(expected: Shapes, got: Shapes, *, where: str) -> str | None:
    """One line that lists missing, unexpected and wrongly shaped keys, with the likely reasons; None if all fits.

    Args:
        expected: shapes by name in the model.
        got: shapes by name in the file, under the model's names.
        where: the file.
    """
    missing = [key for key in expected if key not in got]
    unexpected = [key for key in got if key not in expected]
    wrong = [key for key in expected if key in got and expected[key] != got[key]]
    if not (missing or unexpected or wrong):
        return None
    shaped = [f"{key} {got[key]} in the file, {expected[key]} in the model" for key in wrong]
    groups = (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", shaped))
    parts = [f"{name} ({len(keys)}): {_some(keys)}" for name, keys in groups if keys]
    reasons = list(_reasons(expected, got, [*missing, *unexpected], wrong))
    because = f". Likely: {'; '.join(reasons)}" if reasons else ""
    return f"{where}: does not fit the model; {'; '.join(parts)}{because}"


def num_classes_of(shapes: Shapes) -> int | None:
    """Classes, background included, of an SSD with these shapes; None if it has no head."""
    logits = next((shape[0] for key, shape in shapes.items() if key.startswith("head.logits.") and shape), None)
    locs = next((shape[0] for key, shape in shapes.items() if key.startswith("head.locs.") and shape), None)
    return None if not logits or not locs or locs < 4 else logits // (locs // 4)


def _some(keys: Sequence[str]) -> str:
    rest = len(keys) - _LISTED
    return ", ".join(keys[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _reasons(expected: Shapes, got: Shapes, absent: Sequence[str], wrong: Sequence[str]) -> list[str]:
    reasons = []
    file_classes, model_classes = num_classes_of(got), num_classes_of(expected)
    if file_classes != model_classes and None not in (file_classes, model_classes):
        reasons.append(
            f"{file_classes} classes in the file, {model_classes} in the model: pass num_classes={file_classes} or "
            "head: fresh"
        )
    first = "features.backbone.conv1_1.conv.weight"
    if first in wrong:
        reasons.append(
            f"{got[first][0]} channels at conv1_1 in the file, {expected[first][0]} in the model: set model.width"
        )
    if any("conv12_" in key for key in absent):
        file, model = ("SSD512", "SSD300") if any("conv12_" in key for key in got) else ("SSD300", "SSD512")
        reasons.append(f"an {file} in the file, an {model} in the model: set model.name")
    if any(is_norm_key(key) for key in absent):
        reasons.append("the norms of the two differ: set norm: as it was when the file was written")
    return reasons


def is_norm_key(key: str) -> bool:
    """Whether a name belongs to a conv norm or a tap norm of an SSD."""
    return ".norm." in key or key.startswith("features.tap_norms.")
