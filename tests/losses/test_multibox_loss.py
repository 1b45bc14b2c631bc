"""The multibox loss against torchvision's SSD, against sums by hand, and at its edges."""

import math

import pytest
import torch
from torchvision.models.detection import ssd300_vgg16 as torchvision_ssd300
from torchvision.ops import box_iou

from ssdnorm import MultiboxLoss, SSDOutput, make_default_boxes
from ssdnorm.boxes.matcher import cxcywh_to_xyxy

DEFAULT_BOXES = make_default_boxes("ssd300_coco")


@pytest.fixture(scope="module")
def torchvision_ssd():
    return torchvision_ssd300(weights=None, weights_backbone=None, num_classes=21)


def random_batch(num_images, num_truths, num_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    locs = torch.randn(num_images, 8732, 4, generator=generator)
    logits = torch.randn(num_images, 8732, num_classes, generator=generator)
    corner = torch.rand(num_images, num_truths, 2, generator=generator) * 0.5
    boxes = torch.cat((corner, corner + 0.15 + torch.rand(num_images, num_truths, 2, generator=generator) * 0.3), dim=2)
    labels = torch.randint(1, num_classes, (num_images, num_truths), generator=generator)
    return SSDOutput(locs, logits), boxes, labels


def torchvision_loss(model, output, boxes, labels):
    default_boxes = cxcywh_to_xyxy(DEFAULT_BOXES) * 300
    targets = [{"boxes": b[c > 0] * 300, "labels": c[c > 0]} for b, c in zip(boxes, labels, strict=True)]
    matched = [model.proposal_matcher(box_iou(target["boxes"], default_boxes)) for target in targets]
    heads = {"bbox_regression": output.locs, "cls_logits": output.logits}
    return model.compute_loss(targets, heads, [default_boxes] * len(targets), matched)


def test_values_and_gradients_equal_torchvisions(torchvision_ssd):
    output, boxes, labels = random_batch(4, 3, 21)
    labels[1, 2], labels[2, 1:] = 0, 0  # padding
    grads = []
    for loss in (MultiboxLoss(DEFAULT_BOXES), lambda *batch: torchvision_loss(torchvision_ssd, *batch)):
        leaves = SSDOutput(*(x.clone().requires_grad_() for x in output))
        parts = loss(leaves, boxes, labels)
        sum(parts.values()).backward()
        grads.append((parts, leaves.locs.grad, leaves.logits.grad))
    for name in ("bbox_regression", "classification"):
        torch.testing.assert_close(grads[0][0][name], grads[1][0][name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(grads[0][2], grads[1][2], rtol=1e-4, atol=1e-7)


def test_one_matched_box_is_worth_three_negatives():
    loss = MultiboxLoss(DEFAULT_BOXES, iou_threshold=1.0)
    parts = loss(
        SSDOutput(torch.zeros(1, 8732, 4), torch.zeros(1, 8732, 5)),
        torch.tensor([[[0.2, 0.2, 0.5, 0.6]]]),
        torch.tensor([[4]]),
    )
    assert parts["classification"].item() == pytest.approx(4 * math.log(5), rel=1e-5)


def test_the_loss_of_a_perfect_output_is_zero():
    _, boxes, labels = random_batch(2, 3, 6)
    loss = MultiboxLoss(DEFAULT_BOXES)
    from ssdnorm.boxes.matcher import match_default_boxes

    matches = match_default_boxes(boxes, labels, DEFAULT_BOXES)
    own = boxes.gather(1, matches.clamp(min=0)[..., None].expand(-1, -1, 4))
    wanted = torch.where(matches >= 0, labels.gather(1, matches.clamp(min=0)), 0)
    logits = torch.nn.functional.one_hot(wanted, 6) * 100.0
    parts = loss(SSDOutput(loss.coder.encode(own, DEFAULT_BOXES), logits), boxes, labels)
    assert parts["bbox_regression"].item() == pytest.approx(0, abs=1e-5)
    assert parts["classification"].item() == pytest.approx(0, abs=1e-5)


def test_an_image_without_objects_adds_nothing():
    output, boxes, labels = random_batch(2, 3, 6)
    labels[1] = 0
    alone = MultiboxLoss(DEFAULT_BOXES)(SSDOutput(output.locs[:1], output.logits[:1]), boxes[:1], labels[:1])
    both = MultiboxLoss(DEFAULT_BOXES)(output, boxes, labels)
    for name, value in alone.items():
        torch.testing.assert_close(both[name], value)


@pytest.mark.parametrize("num_truths", [0, 3])
def test_a_batch_without_objects_has_loss_zero_and_zero_gradients(num_truths):
    output, boxes, labels = random_batch(2, num_truths, 6)
    leaves = SSDOutput(*(x.requires_grad_() for x in output))
    parts = MultiboxLoss(DEFAULT_BOXES)(leaves, torch.zeros_like(boxes), torch.zeros_like(labels))
    total = parts["bbox_regression"] + parts["classification"]
    total.backward()
    assert total.item() == 0
    assert leaves.locs.grad.abs().sum() == 0
    assert leaves.logits.grad.abs().sum() == 0


def test_computing_on_all_rows_as_on_a_gpu_gives_the_same(monkeypatch):
    output, boxes, labels = random_batch(3, 4, 6)
    labels[0, 1:] = 0
    boxes[0, 1:] = 0
    expected = MultiboxLoss(DEFAULT_BOXES)(output, boxes, labels)
    monkeypatch.setattr("ssdnorm.losses.multibox_loss._rows", lambda mask: (slice(None), mask.flatten()))
    leaves = SSDOutput(*(x.clone().requires_grad_() for x in output))
    got = MultiboxLoss(DEFAULT_BOXES)(leaves, boxes, labels)
    sum(got.values()).backward()
    assert leaves.locs.grad.isfinite().all()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_output_is_summed_in_float32(dtype):
    output, boxes, labels = random_batch(2, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = MultiboxLoss(DEFAULT_BOXES)(SSDOutput(output.locs.to(dtype), output.logits.to(dtype)), boxes, labels)
    full = MultiboxLoss(DEFAULT_BOXES)(
        SSDOutput(output.locs.to(dtype).float(), output.logits.to(dtype).float()), boxes, labels
    )
    for name, value in parts.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, full[name])


def test_extreme_logits_keep_the_loss_finite():
    output, boxes, labels = random_batch(1, 2, 6)
    parts = MultiboxLoss(DEFAULT_BOXES)(SSDOutput(output.locs, output.logits * 1e4), boxes, labels)
    assert all(value.isfinite() for value in parts.values())


def test_output_for_other_default_boxes_is_refused():
    with pytest.raises(ValueError, match=r"for its 8732 default boxes; got \(1, 8096, 4\) and \(1, 8096, 21\)"):
        MultiboxLoss(DEFAULT_BOXES)(
            SSDOutput(torch.zeros(1, 8096, 4), torch.zeros(1, 8096, 21)), torch.zeros(1, 1, 4), torch.zeros(1, 1)
        )


def test_boxes_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"expects boxes \(1, G, 4\) and labels \(1, G\); got \(1, 2, 4\) and \(1, 3\)"
    ):
        MultiboxLoss(DEFAULT_BOXES)(
            SSDOutput(torch.zeros(1, 8732, 4), torch.zeros(1, 8732, 21)), torch.zeros(1, 2, 4), torch.zeros(1, 3)
        )
