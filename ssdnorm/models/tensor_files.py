"""Read tensors by name from files without running code from them, and say what does not fit a model."""

from __future__ import annotations

import argparse
import importlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ssdnorm.messages import shown

Shapes = Mapping[str, tuple[int, ...]]
_LARGEST_RATIO = 50  # of bytes unpacked to bytes in the file; trained weights stay below 2
_SMALL = 16 * 2**20  # bytes; below, no matter


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a ``.safetensors``, ``.npz``, torch or TensorFlow file; never runs code from it.

    A torch file may hold the tensors at the top level or under ``state_dict``, ``model`` or ``model_state_dict``;
    DataParallel's prefix ``module.`` is removed. A TensorFlow checkpoint is given by its prefix (``model.ckpt-1000``)
    or its ``.index`` file, and needs the tensorflow package.

    Raises:
        FileNotFoundError: no such file.
        ValueError: none of these formats, damaged, a pickle that would run code, or an archive that unpacks to more
            than weights of its size can.
    """
    if path.suffix == ".index" or (not path.exists() and path.with_name(f"{path.name}.index").is_file()):
        return _read_tensorflow(path.with_suffix("") if path.suffix == ".index" else path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; the weights of a run are checkpoints/model.safetensors in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        with readable(path, ".safetensors file"):
            return load_file(path)
    if path.suffix == ".npz":
        _check_archive(path)
        with readable(path, ".npz file"), np.load(path, allow_pickle=False) as archive:
            return {name.removesuffix(":0"): torch.from_numpy(array) for name, array in archive.items()}
    return _tensors_in(_read_torch(path), path)


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Let any error of reading a file name it; damaged data, headers and types each raise their own kind of error."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: not a readable {kind}, or cut off ({type(error).__name__})") from error


def check_types(state: Mapping[str, Tensor], *, where: str) -> None:
    """Raise ``ValueError`` for a tensor that is no dense array of floats; batch norm's counters are integers."""
    for name, tensor in state.items():
        is_counter = name.endswith("num_batches_tracked") and tensor.dtype == torch.int64
        if tensor.layout != torch.strided or not (tensor.is_floating_point() or is_counter):
            got = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise ValueError(f"{where}: {shown(name)}: expected floating-point numbers; got {got}")


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check_shapes(expected: Shapes, got: Shapes, *, where: str) -> None:
    """Compare the shapes in a file, ``got``, with those of a model.

    Raises:
        ValueError: lists missing, unexpected and wrongly shaped tensors in one line, with the likely reasons.
    """
    missing = [key for key in expected if key not in got]
    unexpected = [key for key in got if key not in expected]
    wrong = [key for key in expected if key in got and expected[key] != got[key]]
    if not (missing or unexpected or wrong):
        return
    shaped = [f"{key} {got[key]} in the file, {expected[key]} in the model" for key in wrong]
    groups = (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", shaped))
    parts = [f"{name} ({len(keys)}): {first_few(keys)}" for name, keys in groups if keys]
    reasons = _likely_reasons(expected, got, [*missing, *unexpected], wrong)
    because = f". Likely: {'; '.join(reasons)}" if reasons else ""
    raise ValueError(f"{where}: does not fit the model; {'; '.join(parts)}{because}")


def num_classes_of(shapes: Shapes) -> int | None:
    """Number of classes, background included, of an SSD with these shapes; None without a head."""
    logits = next((shape[0] for key, shape in shapes.items() if key.startswith("head.logits.") and shape), None)
    locs = next((shape[0] for key, shape in shapes.items() if key.startswith("head.locs.") and shape), None)
    return None if not logits or not locs or locs < 4 else logits // (locs // 4)


def first_few(names: Sequence[str]) -> str:
    """The first four names, short whatever they are, and the number of the others."""
    listed = ", ".join(name if len(name) < 120 else shown(name) for name in names[:4])
    return f"{listed} and {len(names) - 4} more" if len(names) > 4 else listed


def is_norm_key(key: str) -> bool:
    """Whether a tensor name belongs to a conv norm or a tap norm of an SSD."""
    return ".norm." in key or key.startswith("features.tap_norms.")


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is damaged, or unpacks to far more than weights of its size can."""
    with readable(path, "zip file"), zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    size = path.stat().st_size
    if unpacked > max(_SMALL, _LARGEST_RATIO * size):
        raise ValueError(f"{path}: {size:,} bytes that unpack to {unpacked:,}; no weights can be packed so well")


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        if not file.read(4).startswith((b"PK", b"\x80")):  # a zip archive, or a pickle since 2003
            raise ValueError(f"{path}: not a weights file: neither torch's nor .safetensors nor .npz")
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):  # torchvision's "args"
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:global: GLOBAL|class|GLOBAL) ([\w]+\.[\w.]+)", str(error))
        what = f" ({wanted[1]})" if wanted else ""
        raise ValueError(
            f"{path}: refused: this pickle holds more than tensors{what}, and reading it could run code. If you "
            "trust it, save its state_dict alone, in the system that wrote it, and give that file"
        ) from error
    except Exception as error:  # a damaged pickle or archive raises many kinds of errors
        raise ValueError(f"{path}: not a readable weights file, or cut off ({type(error).__name__})") from error


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors by name")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _read_tensorflow(prefix: Path) -> dict[str, Tensor]:
    try:
        train = importlib.import_module("tensorflow").train
    except ImportError as error:
        raise ValueError(
            f"{prefix}: a TensorFlow checkpoint is read by the tensorflow package: pip install 'ssdnorm[tensorflow]', "
            "or save its variables as .npz where TensorFlow is installed"
        ) from error
    with readable(prefix, "TensorFlow checkpoint"):
        reader = train.load_checkpoint(str(prefix))
        names = reader.get_variable_to_shape_map()
        return {name: torch.from_numpy(np.array(reader.get_tensor(name))) for name in names}


def _likely_reasons(expected: Shapes, got: Shapes, absent: Sequence[str], wrong: Sequence[str]) -> list[str]:
    reasons = []
    in_file, in_model = num_classes_of(got), num_classes_of(expected)
    if in_file != in_model and None not in (in_file, in_model):
        reasons.append(
            f"{in_file} classes in the file, {in_model} in the model: pass num_classes={in_file} or head: fresh"
        )
    first = "features.backbone.conv1_1.conv.weight"
    if first in wrong:
        reasons.append(f"{got[first][0]} channels at conv1_1 in the file, {expected[first][0]} in the model: set width")
    if any("conv12_" in key for key in absent):
        file, model = ("SSD512", "SSD300") if any("conv12_" in key for key in got) else ("SSD300", "SSD512")
        reasons.append(f"an {file} in the file, an {model} in the model")
    if any(is_norm_key(key) for key in absent):
        reasons.append("file and model have different norms: build the model with those of the file")
    return reasons
