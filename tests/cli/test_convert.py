"""The convert command: a foreign file in, ours out, and back to torchvision."""

import pytest
import torch
from torchvision.models.detection import ssd300_vgg16 as torchvision_ssd300

from ssdnorm import load_detector
from ssdnorm.cli import main


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    with torch.device("meta"):  # drawing its weights takes longer
        state = torchvision_ssd300(weights=None, weights_backbone=None, num_classes=21).state_dict()
    path = tmp_path_factory.mktemp("theirs") / "tv.pth"
    torch.save({name: torch.rand(tensor.shape) for name, tensor in state.items()}, path)
    return path


def convert(*words) -> int:
    return main(["convert", *map(str, words)])


def test_there_and_back_no_bit_changes_and_the_meaning_is_said(theirs, tmp_path, capsys):
    assert convert(theirs, "--output", tmp_path / "ours.safetensors") == 0
    out = capsys.readouterr().out
    assert "20 classes and background: aeroplane" in out
    assert "8732, sizes [21, 45, 99, 153, 207, 261, 315], clipped: size" in out
    assert convert(tmp_path / "ours.safetensors", "--to", "torchvision", "--output", tmp_path / "back.pth") == 0
    assert "set in torchvision" not in capsys.readouterr().out
    before, after = torch.load(theirs, weights_only=True), torch.load(tmp_path / "back.pth", weights_only=True)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_classes_are_picked_by_either_spelling(theirs, tmp_path):
    words = ("--class-names", ",".join(f"c{i}" for i in range(19)) + ",tv", "--classes", "tvmonitor,c3")
    assert convert(theirs, "--output", tmp_path / "f.safetensors", *words) == 0
    assert load_detector(tmp_path / "f.safetensors").class_names == ("tvmonitor", "c3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.pth"], "--output: ssdnorm files end in .safetensors; got x.pth"),
        (["--output", "x.safetensors", "--to", "torchvision"], "--output: torchvision files end in .pth"),
        (["--output", "x.safetensors", "--classes", "unicorn"], "no class 'unicorn'; choose from: aeroplane"),
        (["--output", "x.safetensors", "--classes", " ,"], "--classes: comma-separated names are needed; got ' ,'"),
        (["--output", "x.safetensors", "--class-names", ""], "--class-names: comma-separated names are needed; got ''"),
        (["--output", "x.safetensors", "--class-names", "cat"], "1 class names for 20 classes"),
        (["--output", "x.safetensors", "--default-boxes", "ssd512_voc"], "are for 512 pixels; the file is an SSD300"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(theirs, capsys, words, message):
    assert convert(theirs, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
