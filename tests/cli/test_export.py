"""The export command: its two formats and its mistakes."""

import pytest

from ssdnorm import ssd300_vgg16
from ssdnorm.cli import main
from ssdnorm.models.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    save_checkpoint(path, ssd300_vgg16(3, width=0.02), class_names=["cat", "dog"], post_process={})
    return path


def test_a_file_is_written_and_described(checkpoint, tmp_path, capsys):  # test_predict.py has an ONNX file's
    path = tmp_path / "m.pt2"
    assert main(["export", "--checkpoint", str(checkpoint), "--output", str(path)]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"written: {path} (")
    assert line.endswith("images (B, 3, 300, 300) uint8 -> locs, logits\n")
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("m.txt", [], "--output: the file ends in .onnx or .pt2"),
        ("m.onnx", ["--opset", "11"], "opset: must be 18 or more; got 11"),
        ("folder.pt2", [], "folder.pt2 is a folder; a file is written"),
        ("m.pt2", ["--opset", "20"], "--opset: is ONNX's"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(checkpoint, tmp_path, capsys, name, words, message):
    (tmp_path / "folder.pt2").mkdir()
    assert main(["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / name), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
