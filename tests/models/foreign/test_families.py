"""Other systems' checkpoints: every tensor's place, and what each family means by its numbers."""

import json
from pathlib import Path

import pytest
import torch

from ssdnorm.boxes.default_boxes import DEFAULT_BOXES
from ssdnorm.models.foreign import FAMILIES, convert_tensors

from .layouts import draw, shapes, theirs_by_ours

LAYOUTS = Path(__file__).parents[4] / "shared" / "checkpoint_layouts.json"


def expected_tensor(family, ours, theirs, num_classes):
    """The tensor under our name, box by box and output by output."""
    if family == "balancap" and theirs.ndim == 4:
        theirs = torch.einsum("hwio->oihw", theirs)
    part = ours.split(".")[1]
    if family == "mmdetection" and ours.startswith("head.logits."):
        boxes = theirs.split(num_classes)
        return torch.cat([torch.cat((box[-1:], box[:-1])) for box in boxes])  # background comes first with us
    if family == "chainercv" and part == "locs":
        return torch.cat([torch.stack((box[1], box[0], box[3], box[2])) for box in theirs.split(4)])  # y x h w
    return theirs


CAFFE_MEAN = (123, 117, 104)


@pytest.mark.parametrize(
    ("family", "num_classes", "size", "mean", "boxes", "clip", "post_process", "dropout"),
    [
        ("amdegroot", 21, 300, CAFFE_MEAN, "ssd300_voc", "all", (0.01, 0.45, 200, 174640), 0),
        ("amdegroot", 201, 300, CAFFE_MEAN, "ssd300_coco", "all", (0.01, 0.45, 200, 1746400), 0),
        ("lufficc", 21, 300, CAFFE_MEAN, "ssd300_voc", "all", (0.01, 0.45, 8732, 100), 0),
        ("lufficc", 81, 300, CAFFE_MEAN, "ssd300_coco", "all", (0.01, 0.45, 8732, 100), 0),
        ("lufficc", 21, 512, CAFFE_MEAN, "ssd512_voc", "all", (0.01, 0.45, 24564, 100), 0),
        ("mmdetection", 81, 300, (123.675, 116.28, 103.53), "ssd300_coco", "none", (0.02, 0.45, 1000, 200), 0),
        ("mmdetection", 81, 512, (123.675, 116.28, 103.53), None, "none", (0.02, 0.45, 1000, 200), 0),
        ("chainercv", 21, 300, CAFFE_MEAN, "ssd300_voc", "none", (0.01, 0.45, 8732, 174640), 0),
        ("chainercv", 21, 512, CAFFE_MEAN, "ssd512_voc", "none", (0.01, 0.45, 24564, 491280), 0),
        ("balancap", 21, 300, CAFFE_MEAN, "ssd300_coco", "none", (0.01, 0.45, 400, 200), 0.5),
        ("balancap", 21, 512, CAFFE_MEAN, "ssd512_coco", "none", (0.01, 0.45, 400, 200), 0.5),
    ],
)
def test_every_tensor_finds_its_place_and_keeps_its_meaning(
    family, num_classes, size, mean, boxes, clip, post_process, dropout
):
    theirs = draw(family, num_classes, size)
    checkpoint = convert_tensors(theirs)
    names = theirs_by_ours(family, size)
    assert set(checkpoint.state) == {*names, "image_mean", "image_std"}
    for ours, name in names.items():
        assert torch.equal(checkpoint.state[ours], expected_tensor(family, ours, theirs[name], num_classes)), ours
        assert checkpoint.state[ours].shape == shapes(num_classes, size)[ours]
    torch.testing.assert_close(checkpoint.state["image_mean"] * 255, torch.tensor(mean, dtype=torch.float32))
    torch.testing.assert_close(checkpoint.state["image_std"] * 255, torch.ones(3))
    spec = checkpoint.model["default_boxes"]
    if boxes is None:  # mmdetection's SSD512 truncates the sizes to whole pixels
        assert spec.min_sizes == (20, 51, 133, 215, 296, 378, 460)
        assert spec.max_sizes == (51, 133, 215, 296, 378, 460, 542)
    else:
        assert (spec.min_sizes, spec.max_sizes) == (DEFAULT_BOXES[boxes].min_sizes, DEFAULT_BOXES[boxes].max_sizes)
    assert spec.clip == clip
    assert tuple(checkpoint.post_process.values()) == post_process
    assert checkpoint.model["dropout"] == dropout
    assert checkpoint.antialias is False
    if num_classes != 201:
        assert checkpoint.class_names[0] == ("person" if num_classes == 81 else "aeroplane")


def test_default_boxes_and_class_names_can_be_said():
    checkpoint = convert_tensors(draw("amdegroot", 3), default_boxes="ssd300_coco", class_names=["cat", "dog"])
    assert checkpoint.model["default_boxes"].min_sizes[0] == 21
    assert checkpoint.class_names == ["cat", "dog"]
    with pytest.raises(ValueError, match="1 class names for 2 classes"):
        convert_tensors(draw("amdegroot", 3), class_names=["cat"])
    with pytest.raises(ValueError, match="default boxes 'ssd512_voc' are for 512 pixels; the file is an SSD300"):
        convert_tensors(draw("amdegroot", 3), default_boxes="ssd512_voc")


def test_what_training_leaves_in_a_tensorflow_checkpoint_is_passed_over():
    theirs = draw("balancap", 2)
    extra = {"global_step": torch.tensor(7), "ssd_300_vgg/conv6/weights/Momentum": torch.zeros(1)}
    assert convert_tensors(theirs).model["dropout"] == 0.5
    assert set(convert_tensors(theirs | extra).state) == set(convert_tensors(theirs).state)


def test_missing_and_unexpected_keys_are_listed_by_their_names_and_wrong_shapes_by_ours():
    theirs = draw("lufficc", 2)
    theirs["backbone.vgg.99.weight"] = theirs.pop("backbone.vgg.33.weight")
    message = r"f.pth: .*missing \(1\): backbone.vgg.33.weight; unexpected \(1\): backbone.vgg.99.weight"
    with pytest.raises(ValueError, match=message):
        convert_tensors(theirs, where="f.pth")
    theirs = draw("amdegroot", 2)
    theirs["vgg.0.weight"] = torch.zeros(32, 3, 3, 3)
    with pytest.raises(
        ValueError, match=r"wrongly shaped \(1\): features.backbone.conv1_1.conv.weight \(32, 3, 3, 3\)"
    ):
        convert_tensors(theirs)


def test_other_files_are_refused_with_the_known_systems():
    known = "torchvision, amdegroot, lufficc, mmdetection, balancap, chainercv"
    with pytest.raises(ValueError, match=r"f.ckpt: a training checkpoint; .* model.safetensors beside it"):
        convert_tensors({"model.image_mean": torch.zeros(3)}, where="f.ckpt")
    with pytest.raises(ValueError, match=f"f.pth: no SSD-VGG16 of a known system; known are {known}.*begins with fc.w"):
        convert_tensors({"fc.weight": torch.zeros(2)}, where="f.pth")


def test_every_family_knows_its_own_files_alone():
    for name in ("amdegroot", "lufficc", "mmdetection", "chainercv", "balancap"):
        tensors = {key: torch.zeros(1) for key in theirs_by_ours(name).values()}
        assert [family.name for family in FAMILIES if family.recognises(tensors)] == [name]


@pytest.mark.skipif(not LAYOUTS.is_file(), reason=f"{LAYOUTS} is not there")
@pytest.mark.parametrize(
    ("entry", "family", "num_classes"),
    [
        ("amdegroot_ssd300_21_classes", "amdegroot", 21),
        ("lufficc_ssd300", "lufficc", 21),
        ("mmdet_ssd300_coco_80_classes", "mmdetection", 81),
        ("balancap_ssd_300_vgg", "balancap", 21),
    ],
)
def test_the_names_of_these_tests_are_those_read_off_the_systems(entry, family, num_classes):
    keys = json.loads(LAYOUTS.read_text())[entry]["keys"]
    assert {name: list(tensor.shape) for name, tensor in draw(family, num_classes).items()} == keys
