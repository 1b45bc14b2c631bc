"""Fine-tuning: a checkpoint into a model with other norms or classes; the outputs at step 0."""

from dataclasses import replace

import pytest
import torch

from ssdnorm import NORMS, ssd300_vgg16, ssd512_vgg16
from ssdnorm.boxes.default_boxes import DEFAULT_BOXES
from ssdnorm.build import build_model
from ssdnorm.config_file import merge_config
from ssdnorm.models.checkpoint import Checkpoint, save_checkpoint
from ssdnorm.models.transfer import transfer_weights

NAMES = ["a", "b", "c"]
SHAPES = {name: {"format": "shapes", "num_images": 2, "seed": 0} for name in ("train", "test")}


def small(num_classes=4, **options):
    return ssd300_vgg16(num_classes, width=0.02, dropout=0, **options)


@pytest.fixture
def checkpoint():
    model = small(seed=7)
    torch.nn.init.uniform_(model.features.tap_norms["conv4_3"].weight, 5, 30)
    return Checkpoint(model.arguments, model.state_dict(), NAMES)


def outputs(model, mode="eval"):
    x = torch.rand(2, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return getattr(model, mode)()(x)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_frozen_batch_norm_put_in_changes_no_bit(checkpoint, mode):
    before, after = small(), small(backbone_norm="frozen_batch_norm", extras_norm="frozen_batch_norm")
    transfer_weights(checkpoint, before, class_names=NAMES)
    transfer_weights(checkpoint, after, class_names=NAMES)
    assert all(torch.equal(a, b) for a, b in zip(outputs(before, mode), outputs(after, mode), strict=True))
    assert after.features.backbone.conv1_1.norm.weight.unique().tolist() == [1.0]


def test_a_fresh_batch_norm_begins_as_the_identity_in_evaluation(checkpoint):
    before, after = small(), small(backbone_norm="batch_norm")
    transfer_weights(checkpoint, before)
    notes = transfer_weights(checkpoint, after)
    torch.testing.assert_close(outputs(before), outputs(after), atol=1e-3, rtol=1e-3)  # its eps is all that differs
    assert "initial values kept in the model: 75 tensors, backbone.conv1_1.norm" in notes[0]


@pytest.mark.parametrize("kind", sorted(set(NORMS) - {"none", "instance_norm"}))
def test_every_norm_goes_in_and_all_convolutions_arrive(checkpoint, kind):
    spec = {"kind": kind, "groups": 4} if kind == "group_norm" else kind
    model = small(backbone_norm=spec)
    transfer_weights(checkpoint, model)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in checkpoint.state.items())


def test_another_tap_norm_does_not_take_over_l2_norms_scales(checkpoint):
    model = small(tap_norms={"conv4_3": "batch_norm"})
    notes = transfer_weights(checkpoint, model)
    assert model.features.tap_norms["conv4_3"].weight.unique().tolist() == [1.0]
    assert "not loaded from the file: 1 tensors, tap_norms.conv4_3" in notes[0]


def test_batch_norm_statistics_go_on_into_a_frozen_one():
    model = small(backbone_norm="batch_norm")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
    frozen = small(backbone_norm="frozen_batch_norm")
    transfer_weights(Checkpoint(model.arguments, model.state_dict(), NAMES), frozen)
    mean = model.features.backbone.conv3_1.norm.running_mean
    assert torch.equal(frozen.features.backbone.conv3_1.norm.running_mean, mean)


def test_a_fresh_head_keeps_all_but_the_class_outputs(checkpoint):
    model, drawn = small(6), small(6)
    transfer_weights(checkpoint, model, head="fresh", class_names=["v", "w", "x", "y", "z"])
    for name, tensor in model.state_dict().items():
        source = drawn.state_dict() if name.startswith("head.logits.") else checkpoint.state
        assert torch.equal(tensor, source[name]), name


def test_other_classes_need_a_fresh_head_or_picking(checkpoint):
    with pytest.raises(ValueError, match=r"f: .*has 3 classes \(a, b, c\), the data 2 \(x, y\); use head: fresh"):
        transfer_weights(checkpoint, small(3), class_names=["x", "y"], where="f")
    with pytest.raises(ValueError, match=r"select the classes c,a from the checkpoint first, or use head: fresh"):
        transfer_weights(checkpoint, small(3), class_names=["c", "a"])
    with pytest.raises(ValueError, match=r"the checkpoint has 3 classes \(a, b, c\), the data 3 \(a, c, b\)"):
        transfer_weights(checkpoint, small(), class_names=["a", "c", "b"])
    with pytest.raises(ValueError, match=r"4 classes in the file, 3 in the model: pass num_classes=4 or head: fresh"):
        transfer_weights(checkpoint, small(3))
    with pytest.raises(ValueError, match=r"head: must be keep, extend or fresh; got 'new'"):
        transfer_weights(checkpoint, small(), head="new")


def test_other_default_boxes_are_refused_with_the_head_and_said_without(checkpoint):
    model = small(default_boxes="ssd300_coco")
    with pytest.raises(ValueError, match=r"boxes: min_sizes \(30, .*; max_sizes .*build the model with those of"):
        transfer_weights(checkpoint, model)
    boxes = replace(DEFAULT_BOXES["ssd300_voc"], steps=(7, 16, 32, 64, 100, 300))
    with pytest.raises(ValueError, match=r"default boxes: steps \(8, .* in the file, \(7, [^()]*\) in the model;"):
        transfer_weights(checkpoint, small(default_boxes=boxes))
    assert "the offsets must be learnt again" in transfer_weights(checkpoint, model, head="fresh")[0]


def test_all_else_is_strict(checkpoint):
    del checkpoint.state["features.backbone.fc6.conv.bias"]
    with pytest.raises(ValueError, match=r"missing \(1\): features.backbone.fc6.conv.bias"):
        transfer_weights(checkpoint, small(), head="fresh")


def test_a_file_of_another_network_is_refused_by_name(tmp_path):
    large = ssd512_vgg16(4, width=0.02)
    save_checkpoint(tmp_path / "m.safetensors", large, class_names=NAMES, post_process={})
    model = {"width": 0.02, "checkpoint": str(tmp_path / "m.safetensors")}
    config = merge_config(("test", {"model": model, "data": SHAPES}))
    same = merge_config(("test", {"model": {**model, "name": "ssd512_vgg16"}, "data": SHAPES}))
    with pytest.raises(ValueError, match=r"m\.safetensors is a ssd512_vgg16 for 512 pixels; model\.name is ssd300"):
        build_model(config, 4)
    assert torch.equal(build_model(same, 4).head.logits["fc7"].weight, large.head.logits["fc7"].weight)


def test_a_fresh_head_takes_what_a_file_of_another_input_size_has(tmp_path):
    large = ssd512_vgg16(4, width=0.02, seed=7)
    save_checkpoint(tmp_path / "m.safetensors", large, class_names=NAMES, post_process={})
    model = {"name": "ssd_vgg16", "image_size": 128, "width": 0.02, "head": "fresh"}
    boxes = {"sizes": [10, 20, 30, 50, 80, 120], "aspect_ratios": [[2], [2], [2], [2], [2]]}
    model |= {"checkpoint": str(tmp_path / "m.safetensors"), "default_boxes": boxes}
    built = build_model(merge_config(("test", {"model": model, "data": SHAPES})), 4)
    theirs, ours = large.state_dict(), built.state_dict()
    drawn = [key for key in ours if key.endswith("weight") and not torch.equal(ours[key], theirs[key])]
    assert drawn == [
        "features.extras.conv10_2.conv.weight",  # 4 × 4, there 3 × 3
        *(f"head.locs.{tap}.weight" for tap in ("fc7", "conv8_2", "conv9_2", "conv10_2")),  # 4 boxes, there 6
        *(f"head.logits.{tap}.weight" for tap in ("conv4_3", "fc7", "conv8_2", "conv9_2", "conv10_2")),
    ]
