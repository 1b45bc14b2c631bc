"""The multibox loss against torchvision's SSD, against sums by hand, and at its edges."""

import math
import subprocess
import sys

import pytest
import torch

from benchmarks.torchvision_ssd import TorchvisionSSD, torchvision_targets
from ssdnorm import BoxCoder, DefaultBoxSpec, MultiboxLoss, SSDOutput, make_default_boxes
from ssdnorm.boxes.matcher import match_default_boxes
from ssdnorm.losses.multibox_loss import hard_negative_mining
from tests.operation_count import OperationCount

DEFAULT_BOXES = make_default_boxes("ssd300_coco")


def random_batch(num_images, num_truths, num_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    locs = torch.randn(num_images, 8732, 4, generator=generator)
    logits = torch.randn(num_images, 8732, num_classes, generator=generator)
    corner = torch.rand(num_images, num_truths, 2, generator=generator) * 0.5
    boxes = torch.cat((corner, corner + 0.15 + torch.rand(num_images, num_truths, 2, generator=generator) * 0.3), dim=2)
    labels = torch.randint(1, num_classes, (num_images, num_truths), generator=generator)
    return SSDOutput(locs, logits), boxes, labels


def torchvision_loss(output, boxes, labels):
    return TorchvisionSSD(DEFAULT_BOXES, 21).loss(output, torchvision_targets(boxes, labels))


def test_values_and_gradients_equal_torchvisions():
    output, boxes, labels = random_batch(4, 3, 21)
    labels[1, 2], labels[2, 1:] = 0, 0  # padding
    grads = []
    for loss in (MultiboxLoss(DEFAULT_BOXES), torchvision_loss):
        leaves = SSDOutput(*(x.clone().requires_grad_() for x in output))
        parts = loss(leaves, boxes, labels)
        sum(parts.values()).backward()
        grads.append((parts, leaves.locs.grad, leaves.logits.grad))
    for name in ("bbox_regression", "classification"):
        torch.testing.assert_close(grads[0][0][name], grads[1][0][name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(grads[0][2], grads[1][2], rtol=1e-4, atol=1e-7)


def test_the_loss_of_a_perfect_output_is_zero_with_any_coder():
    _, boxes, labels = random_batch(2, 3, 6)
    coder = BoxCoder((0.2, 0.3, 0.4, 0.5))
    matches = match_default_boxes(boxes, labels, DEFAULT_BOXES)
    own = boxes.gather(1, matches.clamp(min=0)[..., None].expand(-1, -1, 4))
    logits = 100.0 * torch.nn.functional.one_hot(labels.gather(1, matches.clamp(min=0)) * (matches >= 0), 6)
    perfect = SSDOutput(coder.encode(own, DEFAULT_BOXES), logits)
    parts = MultiboxLoss(DEFAULT_BOXES, coder=coder)(perfect, boxes, labels)
    assert [value.item() for value in parts.values()] == pytest.approx([0, 0], abs=1e-5)


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


@pytest.mark.parametrize(("num_images", "num_truths"), [(16, 3), (16, 8), (2, 30)])
def test_the_operations_depend_on_the_ground_truths_alone_and_none_syncs(num_images, num_truths):
    output, boxes, labels = random_batch(num_images, num_truths, 5)
    leaves = SSDOutput(*(x.requires_grad_() for x in output))
    loss = MultiboxLoss(DEFAULT_BOXES)
    with OperationCount() as count:
        torch.stack(list(loss(leaves, boxes, labels).values())).sum().backward()
    assert count.operations <= 120 + 6 * max(0, num_truths - 8), count.names
    assert count.syncs == 0, count.names


def test_padding_with_boxes_of_zeros_changes_nothing():
    output, boxes, labels = random_batch(2, 3, 6)
    leaves = SSDOutput(*(x.requires_grad_() for x in output))
    wider = torch.cat((boxes, torch.zeros(2, 4, 4)), dim=1), torch.nn.functional.pad(labels, (0, 4))
    expected, got = (MultiboxLoss(DEFAULT_BOXES)(leaves, *targets) for targets in ((boxes, labels), wider))
    assert got == expected
    sum(got.values()).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


SMALL = make_default_boxes(
    DefaultBoxSpec(300, (3, 1), (100, 300), (90, 200), (200, 280), aspect_ratios=((2,), (2,)))
)  # 40 default boxes


def test_gradients_equal_differences_in_double_precision_the_second_ones_too():
    generator = torch.Generator().manual_seed(3)
    locs, logits = (torch.randn(2, 40, c, generator=generator, dtype=torch.float64) for c in (4, 3))
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.3, 0.1, 0.9, 0.8]], [[0.0, 0.0, 0.4, 0.3], [0.0] * 4]])
    labels = torch.tensor([[1, 2], [2, 0]])
    loss = MultiboxLoss(SMALL.double())

    def total(locs, logits):
        parts = loss(SSDOutput(locs, logits), boxes.double(), labels)
        return parts["bbox_regression"] + 2 * parts["classification"]

    leaves = locs.requires_grad_(), logits.requires_grad_()
    assert torch.autograd.gradcheck(total, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(total, leaves, fast_mode=True)


def test_compiled_whole_it_gives_the_same():
    output, boxes, labels = random_batch(2, 3, 4)
    loss = MultiboxLoss(DEFAULT_BOXES)
    expected = loss(output, boxes, labels)
    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(output, boxes, labels)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's count of a process's memory")
def test_two_hundred_ground_truths_an_image_cost_less_memory_than_the_corners_of_all_pairs():
    code = """
import resource, torch
from ssdnorm import MultiboxLoss, SSDOutput, make_default_boxes
torch.set_num_threads(1)
boxes = torch.rand(4, 200, 4)
boxes[..., 2:] = boxes[..., :2] + 0.1
output = SSDOutput(torch.randn(4, 8732, 4), torch.randn(4, 8732, 2))
loss = MultiboxLoss(make_default_boxes("ssd300_voc"))
loss(output, boxes[:, :1], torch.ones(4, 1, dtype=torch.int64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss(output, boxes, torch.ones(4, 200, dtype=torch.int64))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    peak_kb = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    pairs_kb = 4 * 200 * 8732 * 4 / 1024  # one float32 a pair
    assert peak_kb < 3.5 * pairs_kb


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


@pytest.mark.parametrize(
    ("num_boxes", "num_truths", "message"),
    [
        (8096, 3, r"for its 8732 default boxes; got \(1, 8096, 4\) and \(1, 8096, 21\)"),
        (8732, 2, r"expects boxes \(1, G, 4\) and labels \(1, G\); got \(1, 2, 4\) and \(1, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(num_boxes, num_truths, message):
    output = SSDOutput(torch.zeros(1, num_boxes, 4), torch.zeros(1, num_boxes, 21))
    with pytest.raises(ValueError, match=message):
        MultiboxLoss(DEFAULT_BOXES)(output, torch.zeros(1, num_truths, 4), torch.zeros(1, 3))


@pytest.mark.parametrize("ratio", [-1.0, torch.inf, torch.nan])
def test_a_ratio_that_is_no_number_of_boxes_is_refused(ratio):
    with pytest.raises(ValueError, match="negative_ratio must be 0 or more, and finite; got"):
        MultiboxLoss(torch.rand(4, 4), negative_ratio=ratio)


def test_the_largest_losses_of_each_image_are_chosen_three_for_each_match():
    torch.manual_seed(0)
    loss, matched = torch.rand(4, 50), torch.rand(4, 50) < torch.tensor([[0.02], [0.1], [0.2], [0.0]])
    matched[3] = False
    mask = hard_negative_mining(loss, matched, ratio=3)
    for image in range(4):
        background = [k for k in range(50) if not matched[image, k]]
        wanted = min(3 * int(matched[image].sum()), len(background))
        best = sorted(background, key=lambda k: -loss[image, k].item())[:wanted]
        assert (mask & ~matched)[image].nonzero().flatten().tolist() == sorted(best)
    assert mask[matched].all()


@pytest.mark.parametrize(
    ("matched", "ratio", "chosen"),
    [
        ([0, 1, 0, 0, 0, 0], 2, [1, 1, 1, 0, 0, 0]),  # among equal losses the earlier
        ([1, 1, 0], 3, [1, 1, 1]),  # where background is short all of it
        ([0, 0, 1, 1, 1, 0], 0.5, [1, 0, 1, 1, 1, 0]),  # rounded down
    ],
)
def test_boxes_of_equal_loss_are_chosen_by_number_and_place(matched, ratio, chosen):
    mask = hard_negative_mining(torch.ones(1, len(matched)), torch.tensor([matched]).bool(), ratio=ratio)
    assert mask.int().tolist() == [chosen]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_nan_or_infinite_is_chosen(value):
    loss, matched = torch.rand(2, 30), torch.zeros(2, 30, dtype=torch.bool)
    matched[:, :3] = True
    loss[1, 20] = value
    chosen = hard_negative_mining(loss, matched)
    assert chosen.sum(dim=1).tolist() == [12, 12]
    assert chosen[1, 20]


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 0.9)])
def test_focal_loss_counts_every_box_by_lins_formula(gamma, alpha):
    torch.manual_seed(0)
    default_boxes = make_default_boxes("ssd300_voc")[::97].clone()
    logits = torch.randn(2, len(default_boxes), 4, requires_grad=True)
    boxes, labels = torch.tensor([[[0.1, 0.1, 0.6, 0.7]], [[0.3, 0.2, 0.9, 0.9]]]), torch.tensor([[2], [3]])
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0])
    loss = MultiboxLoss(default_boxes, focal=(gamma, alpha), class_weights=weights)
    output = SSDOutput(torch.zeros(2, len(default_boxes), 4), logits)
    found = loss(output, boxes, labels)["classification"]
    matches = match_default_boxes(boxes, labels, default_boxes, iou_threshold=0.5)
    expected = 0.0
    for i in range(2):
        for k, probabilities in enumerate(logits[i].softmax(1).tolist()):
            label = 0 if matches[i, k] < 0 else int(labels[i, matches[i, k]])
            p = probabilities[label]
            factor = (alpha if label else 1 - alpha) * weights[label].item()
            expected -= factor * (1 - p) ** gamma * math.log(p)
    assert found.item() == pytest.approx(expected / int((matches >= 0).sum()), rel=1e-4)
    found.backward()
    assert logits.grad.isfinite().all()


def test_class_weights_scale_the_loss_of_their_class_and_leave_the_mining_alone():
    torch.manual_seed(1)
    default_boxes = make_default_boxes("ssd300_voc")[::97].clone()
    output = SSDOutput(torch.zeros(1, len(default_boxes), 4), torch.randn(1, len(default_boxes), 3))
    boxes, labels = torch.tensor([[[0.1, 0.1, 0.6, 0.7]]]), torch.tensor([[2]])

    def classification(*weights):
        tensor = torch.tensor(weights) if weights else None
        return MultiboxLoss(default_boxes, class_weights=tensor)(output, boxes, labels)["classification"].item()

    plain, objects, background = classification(), classification(0.0, 1.0, 1.0), classification(1.0, 1.0, 0.0)
    assert objects + background == pytest.approx(plain, rel=1e-5)
    assert classification(1.0, 9.0, 4.0) == pytest.approx(background + 4 * objects, rel=1e-5)
