"""Read tensors by name from safetensors, npz, torch and TensorFlow files, without running code from them."""

from __future__ import annotations

import argparse
import importlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

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
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable {path.suffix} file, or cut off ({type(error).__name__})") from error
    if path.suffix == ".npz":
        return _read_npz(path)
    return _tensors_in(_read_torch(path), path)


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is damaged, or unpacks to far more than weights of its size can."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ValueError(f"{path}: not a readable zip file, or cut off ({type(error).__name__})") from error
    size = path.stat().st_size
    if unpacked > max(_SMALL, _LARGEST_RATIO * size):
        raise ValueError(f"{path}: {size:,} bytes that unpack to {unpacked:,}; no weights can be packed so well")


def _read_npz(path: Path) -> dict[str, Tensor]:
    _check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name.removesuffix(":0"): torch.from_numpy(array) for name, array in archive.items()}
    except Exception as error:  # damaged archives, compressed data, headers and types: each its own kind of error
        raise ValueError(f"{path}: not a readable .npz file, or cut off ({type(error).__name__})") from error


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
    try:
        reader = train.load_checkpoint(str(prefix))
        names = reader.get_variable_to_shape_map()
        return {name: torch.from_numpy(np.array(reader.get_tensor(name))) for name in names}
    except Exception as error:  # TensorFlow's own error types are not importable here
        raise ValueError(
            f"{prefix}: not a readable TensorFlow checkpoint, or cut off ({type(error).__name__})"
        ) from error
