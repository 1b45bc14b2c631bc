"""Hostile weights: checkpoints of this library, ONNX metadata, .npz and torch files."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from ssdnorm import load_detector
from ssdnorm.models.checkpoint import save_checkpoint
from ssdnorm.models.onnx_detector import OnnxDetector
from ssdnorm.models.ssd import ssd300_vgg16
from ssdnorm.models.weights import load_backbone_weights
from tests.fuzz.mutations import damaged, mutated
from tests.models.foreign.layouts import theirs_by_ours

_SETTINGS = {"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": 400, "max_detections": 200}


@cache
def _checkpoint() -> bytes:
    """A small checkpoint as this library writes it."""
    import tempfile

    model = ssd300_vgg16(
        3, width=0.02, backbone_norm="batch_norm", tap_norms={"conv4_3": {"kind": "l2_norm", "scale": 10.0}}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        save_checkpoint(path, model, class_names=["cat", "dog"], post_process=_SETTINGS)
        return path.read_bytes()


@cache
def _parts() -> tuple[dict[str, Any], bytes]:
    """Header and tensors of the small checkpoint."""
    data = _checkpoint()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def about() -> dict[str, Any]:
    return json.loads(_parts()[0]["__metadata__"]["about"])


def with_about(content: Any) -> bytes:
    """The small checkpoint with other metadata."""
    header, tensors = _parts()
    metadata = {**header["__metadata__"], "about": content if isinstance(content, str) else json.dumps(content)}
    text = json.dumps({**header, "__metadata__": metadata}).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def with_header(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + _parts()[1]


def read_checkpoint_file(case: bytes, folder: Path) -> object:
    path = folder / "m.safetensors"
    path.write_bytes(case)
    detector = load_detector(path)
    assert all(isinstance(name, str) for name in detector.class_names)
    return detector


@cache
def _onnx() -> Any:
    """A graph with the outputs of an export, all zeros, of any batch size."""
    from onnx import TensorProto, helper

    batch = helper.make_node("Shape", ["images"], ["shape"], start=0, end=1)
    nodes, outputs = [batch], []
    for name, last in (("locs", 4), ("logits", 3)):
        nodes += [
            helper.make_node("Constant", [], [f"{name}_tail"], value_ints=[8732, last]),
            helper.make_node("Concat", ["shape", f"{name}_tail"], [f"{name}_shape"], axis=0),
            helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8732, last]))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, 300, 300])
    graph = helper.make_graph(nodes, "zeros", [images], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def onnx_metadata() -> dict[str, Any]:
    """Metadata as an export writes them, each value parsed."""
    return {
        "format": "ssdnorm export 1",
        "class_names": ["cat", "dog"],
        "image_size": 300,
        "input": {"name": "images", "dtype": "uint8", "colours": "RGB", "range": [0, 255]},
        "antialias": True,
        "output": "raw",
        "default_boxes": about_boxes(),
        "variances": [0.1, 0.1, 0.2, 0.2],
        "post_process": _SETTINGS,
    }


def about_boxes() -> dict[str, Any]:
    from dataclasses import asdict

    from ssdnorm import DEFAULT_BOXES

    return json.loads(json.dumps(asdict(DEFAULT_BOXES["ssd300_voc"])))


def with_metadata(metadata: Any) -> bytes:
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(_onnx())
    for key, value in metadata.items() if isinstance(metadata, dict) else ():
        entry = model.metadata_props.add()
        text = value if isinstance(value, str) else json.dumps(value)
        entry.key, entry.value = str(key).encode("utf-8", "replace"), text.encode("utf-8", "replace")
    return model.SerializeToString()


def read_onnx(case: bytes, folder: Path) -> object:
    path = folder / "m.onnx"
    path.write_bytes(case)
    detector = OnnxDetector(path)
    assert all(isinstance(name, str) for name in detector.class_names)
    size = detector.image_size
    return detector(torch.zeros(1, 3, size, size, dtype=torch.uint8), torch.tensor([[20, 30]]))


def _npz_arrays() -> dict[str, np.ndarray]:
    from ssdnorm.models.vgg import VGG16_CONVS

    arrays = {}
    for name, module in ssd300_vgg16(3, width=0.02).features.backbone.named_children():
        if name in VGG16_CONVS:
            arrays[f"{name}.weight"] = module.conv.weight.detach().numpy()
            arrays[f"{name}.bias"] = module.conv.bias.detach().numpy()
    return arrays


@cache
def npz(compressed: bool = True) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **_npz_arrays())
    return buffer.getvalue()


def npz_declaring(shape: tuple[int, ...], data: bytes, *, name: str = "conv1_1.weight", dtype: str = "<f4") -> bytes:
    """An archive with one array whose header declares a shape, whatever its data."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)
    return buffer.getvalue()


def read_npz(case: bytes, folder: Path) -> object:
    path = folder / "w.npz"
    path.write_bytes(case)
    return load_backbone_weights(_width_2(), path)


@cache
def _width_2() -> Any:
    return ssd300_vgg16(3, width=0.02)


@cache
def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save(
        {"state_dict": {"L2Norm.weight": torch.ones(8), "vgg.0.weight": torch.ones(8, 3, 3, 3)}, "epoch": 3}, buffer
    )
    return buffer.getvalue()


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def bomb_of_zeros(megabytes: int) -> bytes:
    """An archive of a few kilobytes per megabyte of zeros that it unpacks to."""
    return npz_declaring((megabytes * 2**18,), bytes(megabytes * 2**20))


def read_torch(case: bytes, folder: Path) -> object:
    path = folder / "w.pth"
    path.write_bytes(case)
    return load_detector(path)


def _headers() -> st.SearchStrategy[bytes]:
    few = dict(list(_parts()[0].items())[:4])  # mutations should meet the interesting keys
    return mutated(few).map(
        lambda changed: with_header({**_parts()[0], **changed}) if isinstance(changed, dict) else with_header(changed)
    )


@cache
def checkpoint_cases() -> st.SearchStrategy[bytes]:
    head = len(_checkpoint()) - len(_parts()[1])
    cut = damaged(_checkpoint()[:head]).map(lambda start: start + _parts()[1])
    return (
        mutated(about()).map(with_about)
        | mutated(about()).map(with_about)
        | damaged(json.dumps(about()).encode()).map(lambda text: with_about(text.decode("latin-1")))
        | _headers()
        | cut
    )


def checkpoint_found() -> list[bytes]:
    sample = about()
    model = sample["model"]

    def other(**changes: Any) -> bytes:
        return with_about({**sample, "model": {**model, **changes}})

    deep = with_about("[" * 100_000)
    return [
        other(width=20), other(width=1e300), other(num_classes=10_000_000), other(num_classes=10**30),
        other(weights="VGG16_Weights.IMAGENET1K_FEATURES"), other(weights="/etc/passwd"), other(seed=1),
        other(backbone_norm="os:system"), other(tap_norms={"conv4_3": "tests.fuzz.spy:Norm"}), other(name="system"),
        other(**{"a.b": 1}),
        other(dropout=float("nan")), other(default_boxes=None), with_about({**sample, "class_names": [["cat"], {}]}),
        with_about({**sample, "antialias": "no"}), with_about({**sample, "post_process": {"top_k": 1e9}}), deep,
        with_about({**sample, "state": {}}), with_about("nonsense"), with_about("{}"),
        other(backbone_norm={"kind": "batch_norm", "momentum": "x"}),
        other(default_boxes={**about_boxes(), "grid_sizes": [100_000, 19, 10, 5, 3, 1]}),
    ]  # fmt: skip


def onnx_cases() -> st.SearchStrategy[bytes]:
    return mutated(onnx_metadata()).map(with_metadata) | damaged(with_metadata(onnx_metadata()))


def onnx_found() -> list[bytes]:
    sample = onnx_metadata()
    changes: list[dict[str, Any]] = [
        {"image_size": 10_000_000}, {"image_size": "300"},
        {"default_boxes": {**about_boxes(), "grid_sizes": [10**6] * 6}},
        {"class_names": "[" * 100_000}, {"class_names": "cat"}, {"class_names": ["a", "b", "c", "d"]}, {"input": []},
        {"variances": [0, 0, 0, 0]}, {"variances": []}, {"output": "both"}, {"post_process": {"top_k": 0}},
    ]  # fmt: skip
    not_text = with_metadata(sample).replace(b"ssdnorm export 1", b"ssdnorm expor\x80 1")
    return [not_text, *(with_metadata({**sample, **change}) for change in changes)]


def npz_cases() -> st.SearchStrategy[bytes]:
    return damaged(npz()) | damaged(npz(compressed=False))


def npz_found() -> list[bytes]:
    return [
        npz_declaring((10**9, 10**3), b"\0" * 100), npz_declaring((2**62,), b""), npz_declaring((-1,), b"\0" * 8),
        bomb_of_zeros(64), npz_declaring((3,), b"\0" * 24, dtype="|O"), npz_declaring((1,), b"\0" * 16, dtype="<U4"),
        npz_declaring((8, 3, 3, 3), bytes(8 * 27 * 8), dtype="<c8"), npz_declaring((2, 2), b"\0" * 8),
        b"PK\x05\x06" + bytes(18),
        npz()[:200] + zlib.compress(b"x") + npz()[210:],
    ]  # fmt: skip


def torch_cases() -> st.SearchStrategy[bytes]:
    return damaged(torch_file())


def torch_found() -> list[bytes]:
    one = torch.zeros(1, dtype=torch.float16)  # which reading turns into float32, one by one
    names = theirs_by_ours("amdegroot").values()
    huge = {name: one.expand(2**31) if name.endswith("bias") else one.expand(2**21, 2**10, 3, 3) for name in names}
    return [
        saved(huge), saved({"vgg.0.weight": one.expand(2**31, 3, 3, 3), "L2Norm.weight": torch.ones(512)}),
        saved({"conv1_1.weight": "x"}), saved([1, 2]),
        saved({1: torch.ones(2)}), saved({"vgg.0.weight": torch.ones(2).to_sparse()}),
        saved(torch.ones(2)), saved(None),
        saved({"state_dict": {"model": {"state_dict": {}}}}), b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80",
    ]  # fmt: skip
