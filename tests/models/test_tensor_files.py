"""Reading files: four kinds of them, nothing run, and one clear line about every file that is none."""

import argparse
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssdnorm.models.tensor_files import read_tensors


class RunsCode:
    """A pickle of it runs a command that leaves a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch '{self.trace}'",)


@pytest.mark.parametrize("zipped", [True, False])  # False: the format before torch 1.6
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_a_torch_file_may_hold_its_tensors_under_a_wrapper(tmp_path, wrapper, zipped):
    content = {"a.weight": torch.arange(3.0), "epoch": 3}
    content = content if wrapper is None else {wrapper: content, "iteration": 7}
    torch.save(content, tmp_path / "f.pth", _use_new_zipfile_serialization=zipped)
    tensors = read_tensors(tmp_path / "f.pth")
    assert list(tensors) == ["a.weight"]
    assert tensors["a.weight"].tolist() == [0, 1, 2]


def test_safetensors_and_npz_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "f.safetensors")
    np.savez(tmp_path / "f.npz", **{"scope/a:0": np.ones(2, np.float16)})
    assert list(read_tensors(tmp_path / "f.safetensors")) == ["a"]
    assert read_tensors(tmp_path / "f.npz")["scope/a"].dtype == torch.float16


def test_the_prefix_of_data_parallel_is_removed_and_the_arguments_of_torchvisions_script_are_ignored(tmp_path):
    tensors = {"module.a": torch.ones(2), "module.b": torch.ones(2)}
    torch.save({"model": tensors, "args": argparse.Namespace(lr=0.1)}, tmp_path / "f.pth")
    assert list(read_tensors(tmp_path / "f.pth")) == ["a", "b"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["new", "old", "bare"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(tmp_path, form):
    content = {"a": RunsCode(tmp_path / "trace"), "w": torch.ones(2)}
    torch.save(content, tmp_path / "f.pth", _use_new_zipfile_serialization=form == "new")
    if form == "bare":
        (tmp_path / "f.pth").write_bytes(pickle.dumps(content["a"]))
    what = "" if form == "bare" else r" \(posix.system\)"
    message = f"f.pth: refused: this pickle holds more than tensors{what}, and reading it could run code"
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "f.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>404</html>", b"\xff\xd8\xff\xe0JFIF"])
def test_what_is_no_weights_file_gets_one_line(tmp_path, content):
    (tmp_path / "f.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"f.pth: not a weights file: neither torch's nor .safetensors nor .npz$"):
        read_tensors(tmp_path / "f.pth")


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "f.safetensors", "f.npz"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_a_truncated_file_gets_one_line(tmp_path, name, part):
    tensors = {"a": torch.rand(5000)}
    if name.endswith(".pth"):
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=name == "new.pth")
    elif name == "f.npz":
        np.savez(tmp_path / name, a=tensors["a"].numpy())
    else:
        save_file(tensors, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match=f"{name}: not a readable .* file, or cut off") as caught:
        read_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["f.npz", "f.pth"])
def test_an_archive_that_unpacks_to_more_than_any_weights_of_its_size_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.npy", bytes(17 * 2**20))
    with pytest.raises(ValueError, match=rf"{name}: [\d,]+ bytes that unpack to 17,825,792; no weights"):
        read_tensors(tmp_path / name)


def test_arrays_of_objects_are_refused(tmp_path):
    np.savez(tmp_path / "f.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"f.npz: not a readable .npz file"):
        read_tensors(tmp_path / "f.npz")


def test_a_file_without_tensors_and_a_missing_one_are_named(tmp_path):
    torch.save({"a": 1}, tmp_path / "f.pth")
    with pytest.raises(ValueError, match=r"f.pth: holds no tensors by name"):
        read_tensors(tmp_path / "f.pth")
    with pytest.raises(FileNotFoundError, match=r"g.pth: no such weights file"):
        read_tensors(tmp_path / "g.pth")


@pytest.mark.parametrize("word", ["model.ckpt-7", "model.ckpt-7.index"])
def test_a_tensorflow_checkpoint_is_read_by_its_prefix_or_index(tmp_path, monkeypatch, word):
    class Reader:
        def get_variable_to_shape_map(self):
            return {"scope/w": [2]}

        def get_tensor(self, name):
            return np.array([1.0, 2.0])

    asked = []
    train = types.SimpleNamespace(load_checkpoint=lambda prefix: asked.append(prefix) or Reader())
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(train=train))
    (tmp_path / "model.ckpt-7.index").write_bytes(b"")
    assert read_tensors(tmp_path / word)["scope/w"].tolist() == [1, 2]
    assert asked == [str(tmp_path / "model.ckpt-7")]


def test_without_tensorflow_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model.ckpt: .*pip install 'ssdnorm\[tensorflow\]'.*\.npz"):
        read_tensors(tmp_path / "model.ckpt")
