"""Kernels and waits: the counter itself, and ceilings for the loss and the post-processing, whatever the batch."""

import doctest

import pytest
import torch

import benchmarks.kernel_count
from benchmarks.kernel_count import KernelCount
from benchmarks.made_up_outputs import trained_output
from ssdnorm import MultiboxLoss, PostProcess, SSDOutput, make_default_boxes
from ssdnorm.boxes.waiting import as_on_a_gpu

DEFAULT_BOXES = make_default_boxes("ssd300_voc")


def random_output(num_images: int, num_classes: int) -> SSDOutput:
    generator = torch.Generator().manual_seed(num_images)
    locs = torch.randn(num_images, 8732, 4, generator=generator) * 0.1
    return SSDOutput(locs, torch.randn(num_images, 8732, num_classes, generator=generator))


def few_classes_and_many_candidates(num_images: int) -> SSDOutput:
    output = trained_output(num_images, DEFAULT_BOXES, 4, 5)
    output.logits[..., 0] -= 4  # a background of 6: nearly every box passes the threshold in every class
    return output


def test_the_example_holds():
    assert doctest.testmod(benchmarks.kernel_count).failed == 0


@pytest.mark.parametrize(
    ("work", "kernels", "waits"),
    [
        (lambda x: x.view(2, 3).t()[0], 0, 0),
        (lambda x: x + x * 2, 2, 0),
        (lambda x: x.sum().item(), 2, 1),
        (lambda x: (x > 0).nonzero(), 2, 1),
        (lambda x: x[x > 0], 2, 1),
        (lambda x: x.index_put_((x > 0,), torch.zeros(())), 3, 0),  # a fill
        (lambda x: x[torch.arange(2)], 2, 0),
        (lambda x: x.unique(), 1, 1),
        (lambda x: bool(x.any()), 2, 1),
        (lambda x: x.tolist(), 0, 1),
    ],
)
def test_views_are_free_and_looks_are_waits(work, kernels, waits):
    x = torch.arange(6.0)
    with KernelCount() as count:
        work(x)
    assert (count.kernels, count.waits) == (kernels, waits), count.operations


def test_numbers_of_the_host_are_uploads():
    with KernelCount() as count:
        torch.ones(2) * torch.tensor([1.0, 2.0])
    assert count.uploads == 1


@pytest.mark.parametrize(("num_images", "num_classes", "num_truths"), [(2, 21, 3), (16, 5, 3), (2, 21, 30)])
def test_the_loss_takes_at_most_120_kernels_and_never_waits_whatever_the_batch(num_images, num_classes, num_truths):
    leaves = SSDOutput(*(x.requires_grad_() for x in random_output(num_images, num_classes)))
    boxes = torch.tensor([0.1, 0.2, 0.5, 0.6]).expand(num_images, num_truths, 4)
    loss, labels = MultiboxLoss(DEFAULT_BOXES), torch.ones(num_images, num_truths, dtype=torch.int64)
    with as_on_a_gpu(), KernelCount() as count:
        torch.stack(list(loss(leaves, boxes, labels).values())).sum().backward()
    assert count.kernels == 113, count.most_common(50)
    assert (count.waits, count.uploads) == (0, 0)


@pytest.mark.parametrize(("num_images", "num_classes"), [(2, 21), (16, 21), (2, 91)])
def test_post_processing_takes_at_most_60_kernels_and_four_waits_whatever_the_batch(num_images, num_classes):
    post_process = PostProcess(DEFAULT_BOXES)
    output, sizes = random_output(num_images, num_classes), torch.full((num_images, 2), 300)
    with as_on_a_gpu(), KernelCount() as count:
        detections = post_process(output, sizes)
    assert all(len(d["scores"]) == 200 for d in detections)
    assert count.kernels <= 60, count.most_common(50)
    assert count.waits <= 3
    assert count.uploads == 0


@pytest.mark.parametrize("num_images", [1, 8])
def test_post_processing_takes_no_more_where_few_classes_have_many_candidates(num_images):
    post_process = PostProcess(DEFAULT_BOXES)
    output, sizes = few_classes_and_many_candidates(num_images), torch.full((num_images, 2), 300)
    with as_on_a_gpu(), KernelCount() as count:
        detections = post_process(output, sizes)
    assert all(0 < len(d["scores"]) < 200 for d in detections)
    assert count.kernels <= 60, count.most_common(50)
    assert (count.waits, count.uploads) == (3, 0)


def test_post_processing_waits_twice_more_each_time_that_the_candidates_are_not_enough():
    post_process = PostProcess(DEFAULT_BOXES)
    output, sizes = trained_output(2, DEFAULT_BOXES, 21, 200), torch.full((2, 2), 300)
    with as_on_a_gpu(), KernelCount() as count:
        post_process(output, sizes)
    times = 2  # 1000, then 2000, then 4000 candidates
    assert count.kernels <= 60 + times * 50, count.most_common(50)
    assert (count.waits, count.uploads) == (3 + times * 2, 0)
