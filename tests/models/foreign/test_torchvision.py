"""Ours against torchvision's SSD300 itself, with the same weights, on photographs."""

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import ssd300_vgg16
from torchvision.ops import box_convert, box_iou

from ssdnorm.boxes.default_boxes import DEFAULT_BOXES, default_box_spec
from ssdnorm.data.images import EncodedImage
from ssdnorm.detector import make_detector
from ssdnorm.models.foreign import convert_tensors
from ssdnorm.models.foreign.torchvision import to_torchvision


@pytest.fixture(scope="module")
def theirs():
    """Random weights with activations, scores and offsets of a useful size."""
    torch.manual_seed(3)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("backbone.") and parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
            elif name.startswith("backbone.") and name.endswith("bias"):
                parameter.uniform_(-0.2, 0.2)
        model.backbone.scale_weight.uniform_(15, 25)  # tell the channels apart
        maps = list(model.backbone(255 * torch.rand(1, 3, 300, 300) - 120).values())
        for heads, spread in ((model.head.classification_head, 1.5), (model.head.regression_head, 0.5)):
            for conv, x in zip(heads.module_list, maps, strict=True):
                conv.weight.mul_(spread / conv(x).std())
                conv.bias.uniform_(-0.5, 0.5)
    return model


@pytest.fixture(scope="module")
def ours(theirs):
    return make_detector(convert_tensors(theirs.state_dict()))


@pytest.fixture(scope="module")
def photographs(real_data):
    bccd = sorted((real_data("BCCD") / "JPEGImages").glob("*.jpg"))[:4]
    coco = sorted((real_data("coco_union")).rglob("*.jpg"))
    photos = [
        torch.from_numpy(EncodedImage.read(path).decode()).permute(2, 0, 1)
        for path in [*bccd, *coco[:: max(1, len(coco) // 40)]]
    ]
    by_size = list({tuple(photo.shape): photo for photo in photos}.values())
    assert len(by_size) >= 8, "photographs of different sizes"
    return [photo.float() / 255 for photo in by_size[:8]]


COUNTS = [pytest.param(slice(2), id="2 photographs"), pytest.param(slice(2, 8), id="6", marks=pytest.mark.slow)]


@pytest.mark.parametrize("chosen", COUNTS)
@torch.no_grad()
def test_raw_outputs_and_detections_on_photographs_are_torchvisions(theirs, ours, photographs, chosen):
    theirs.eval()
    ours.eval()
    scores, raw = [], {}
    handles = [m.register_forward_hook(lambda m, _, output: raw.update({m: output})) for m in (theirs.head, ours.model)]
    for photo in photographs[chosen]:
        (want,), (got,) = theirs([photo]), ours([photo])
        torch.testing.assert_close(raw[ours.model].locs, raw[theirs.head]["bbox_regression"], atol=1e-4, rtol=0)
        torch.testing.assert_close(raw[ours.model].logits, raw[theirs.head]["cls_logits"], atol=1e-4, rtol=0)
        torch.testing.assert_close(got["scores"], want["scores"], atol=1e-5, rtol=0)
        same = (got["boxes"][:, None] - want["boxes"]).abs().amax(dim=2) <= 0.01
        same &= got["labels"][:, None] == want["labels"]
        same &= (got["scores"][:, None] - want["scores"]).abs() <= 1e-5  # scores as close as this may change places
        assert same.any(dim=0).all(), "each of theirs is among ours"
        assert same.any(dim=1).all(), "each of ours is among theirs"
        scores.append(want["scores"])
        assert len(want["scores"]) == 200
    for handle in handles:
        handle.remove()
    scores = torch.cat(scores)
    assert len(scores.unique()) > 0.98 * len(scores)  # so that the order says something
    assert scores.max() - scores.min() > 0.1


def targets_with_one_matching(photo, generator, default_boxes):
    """Boxes that the two match alike for certain.

    No two ask for the same default box (torchvision lets the last of them win, Caffe and we the one with the best
    IoU), and no decision is so close that rounding takes it: torchvision's boxes are in pixels, ours in [0, 1].
    """
    height, width = photo.shape[-2:]
    while True:
        corner = torch.rand((4, 2), generator=generator) * 0.6
        boxes = torch.cat((corner, corner + 0.1 + 0.3 * torch.rand((4, 2), generator=generator)), dim=1)
        labels = torch.randint(1, 7, (4,), generator=generator)
        iou = box_iou(boxes, box_convert(default_boxes, "cxcywh", "xyxy"))
        of_boxes, of_defaults = iou.topk(2, dim=1), iou.topk(2, dim=0).values
        matters = of_defaults[0] > 0.499
        close = (of_defaults[0] - 0.5).abs() < 1e-5
        close |= matters & (of_defaults[0] - of_defaults[1] < 1e-5)
        clear = (of_boxes.values[:, 0] - of_boxes.values[:, 1] > 1e-5).all() and not close.any()
        if clear and len(of_boxes.indices[:, 0].unique()) == 4:
            return {"boxes": boxes * torch.tensor([width, height] * 2), "labels": labels}


@pytest.mark.parametrize("chosen", COUNTS)
@torch.no_grad()
def test_losses_in_training_mode_are_torchvisions(theirs, ours, photographs, chosen):
    theirs.train()
    ours.train()
    generator = torch.Generator().manual_seed(0)
    photos = photographs[chosen]
    for start in range(0, len(photos), 2):
        pair = photos[start : start + 2]
        targets = [targets_with_one_matching(photo, generator, ours.model.default_boxes) for photo in pair]
        want = theirs(list(pair), [dict(t) for t in targets])
        got = ours(list(pair), targets)
        assert set(got) == set(want)
        for part in want:
            torch.testing.assert_close(got[part], want[part], atol=1e-4, rtol=0)


def test_default_boxes_are_torchvisions(theirs, ours):
    images, _ = theirs.eval().transform([torch.zeros(3, 300, 300)])
    (anchors,) = theirs.anchor_generator(images, [torch.zeros(1, 1, side, side) for side in (38, 19, 10, 5, 3, 1)])
    default_boxes = box_convert(ours.model.default_boxes, "cxcywh", "xyxy")
    torch.testing.assert_close(300 * default_boxes, anchors, atol=1e-4, rtol=0)


def test_there_and_back_again_no_bit_changes(theirs):
    there = convert_tensors(theirs.state_dict())
    state, notes = to_torchvision(there)
    assert notes == []
    assert sorted(state) == sorted(theirs.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    with torch.device("meta"):
        ssd300_vgg16(weights=None, weights_backbone=None, num_classes=7).load_state_dict(state, assign=True)
    again = convert_tensors(state)
    assert set(again.state) == set(there.state)
    assert all(torch.equal(again.state[name], tensor) for name, tensor in there.state.items())


def test_what_torchvision_keeps_in_its_code_is_said(theirs):
    checkpoint = convert_tensors(theirs.state_dict(), default_boxes="ssd300_voc")
    checkpoint.state["image_mean"] = torch.tensor([0.485, 0.456, 0.406])
    checkpoint.post_process["score_threshold"] = 0.2
    notes = to_torchvision(checkpoint)[1]
    assert "image_mean=[0.485, 0.456, 0.406]" in notes[0]
    assert "scales=[0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05], steps=[8, 16, 32, 64, 100, 300], clip=True" in notes[1]
    assert "'score_threshold': 0.2" in notes[2]


def with_default_boxes(theirs, **change):
    checkpoint = convert_tensors(theirs.state_dict())
    checkpoint.model["default_boxes"] = replace(default_box_spec(checkpoint.model["default_boxes"]), **change)
    return checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"aspect_ratios": ((3,), *DEFAULT_BOXES["ssd300_coco"].aspect_ratios[1:])},
            "DefaultBoxGenerator([[3], [2,",
        ),
        ({"steps": (7.5, 16, 32, 64, 100, 300)}, "steps=[7.5, 16, 32, 64, 100, 300], clip=True"),
        ({"clip": "none"}, "clip=False"),
        ({"clip": "all"}, "clip=True); it does not limit the boxes' centres to the image, as was done in training"),
    ],
)
def test_default_boxes_that_are_not_torchvisions_are_written_out(theirs, change, message):
    checkpoint = with_default_boxes(theirs, **change)
    (note,) = to_torchvision(checkpoint)[1]
    assert message in note


@pytest.mark.parametrize(
    "change",
    [{"max_sizes": (46, 99, 153, 207, 261, 315)}, {"steps": ((8, 9), 16, 32, 64, 100, 300)}],
)
def test_default_boxes_that_torchvision_cannot_make_are_refused(theirs, change):
    checkpoint = with_default_boxes(theirs, **change)
    with pytest.raises(ValueError, match=r"one step per tap and, as max_size, the next tap's min_size; got steps "):
        to_torchvision(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0.5}, r"only ssd300_vgg16 of width 1; got ssd300_vgg16 of width 0.5"),
        ({"name": "ssd512_vgg16"}, r"got ssd512_vgg16"),
        ({"backbone_norm": {"kind": "group_norm"}}, r"no norms in its backbone"),
        ({"tap_norms": {"conv4_3": "none"}}, r"l2_norm on conv4_3 and no other tap norm; got none"),
    ],
)
def test_networks_that_torchvision_cannot_be_are_refused(theirs, change, message):
    checkpoint = convert_tensors(theirs.state_dict())
    checkpoint.model.update(change)
    with pytest.raises(ValueError, match=message):
        to_torchvision(checkpoint)


def test_coco_classes_have_torchvisions_names_with_its_holes():
    with torch.device("meta"):
        state = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91).state_dict()
    names = convert_tensors(state).class_names
    assert (names[0], names[11], names[89]) == ("person", "N/A", "toothbrush")
