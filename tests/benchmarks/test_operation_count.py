"""Operations and host syncs: the counter itself, and bounds for the loss, the post-processing and the detector."""

from functools import partial

import pytest
import torch
import torchvision

from benchmarks import operations
from benchmarks.goals import GOALS
from benchmarks.operation_count import OperationCount, count_operations
from benchmarks.synthetic_outputs import (
    backward,
    on_device,
    synthetic_output,
    synthetic_targets,
    trained_output,
    untrained_output,
)
from benchmarks.timing import Settings
from benchmarks.torchvision_ssd import TorchvisionSSD, nms_as_on_a_gpu, torchvision_targets
from ssdnorm import Detector, MultiboxLoss, PostProcess, SSDOutput, make_default_boxes, ssd300_vgg16

DEFAULT_BOXES = make_default_boxes("ssd300_coco")


@pytest.mark.parametrize(
    ("work", "number", "syncs"),
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
def test_views_are_free_and_reads_are_syncs(work, number, syncs):
    x = torch.arange(6.0)
    with OperationCount() as count:
        work(x)
    assert (count.operations, count.syncs) == (number, syncs), count.most_common()


def test_numbers_of_the_host_are_uploads():
    with OperationCount() as count:
        torch.ones(2) * torch.tensor([1.0, 2.0])
    assert count.uploads == 1


def loss_count(num_images, num_classes, most):
    leaves = on_device(untrained_output(num_images, 8732, num_classes), torch.device("cpu"), requires_grad=True)
    targets = synthetic_targets(num_images, num_classes, most)
    return count_operations(partial(backward, MultiboxLoss(DEFAULT_BOXES), leaves, *targets))


def test_the_loss_takes_the_same_operations_at_every_batch_size_and_never_syncs():
    counts = [loss_count(2, 21, 3), loss_count(16, 5, 3), loss_count(2, 21, 30)]
    assert len({count.operations for count in counts}) == 1
    assert counts[0].operations <= 120, counts[0].most_common()
    assert {count.syncs + count.uploads for count in counts} == {0}


def post_process_count(output: SSDOutput):
    sizes = torch.full((len(output.locs), 2), 300)
    return count_operations(partial(PostProcess(DEFAULT_BOXES), output, sizes))


def few_classes_and_many_candidates(num_images):
    output = trained_output(num_images, DEFAULT_BOXES, 4, 5)
    output.logits[..., 0] -= 4  # a background of 6: nearly every box passes the threshold in every class
    return output


@pytest.mark.parametrize(
    "make",
    [
        lambda: synthetic_output(2, DEFAULT_BOXES, 21, 20),
        lambda: synthetic_output(8, DEFAULT_BOXES, 91, None),
        lambda: few_classes_and_many_candidates(1),
        lambda: few_classes_and_many_candidates(8),
    ],
)
def test_post_processing_takes_at_most_60_operations_and_4_syncs_at_every_batch_size(make):
    count = post_process_count(make())
    assert count.operations <= 60, count.most_common()
    assert count.syncs <= 4
    assert count.uploads == 0


def test_post_processing_of_200_objects_takes_at_most_110_operations_and_5_syncs():
    count = post_process_count(synthetic_output(2, DEFAULT_BOXES, 81, 200))
    assert count.operations <= 110, count.most_common()
    assert count.syncs + count.uploads <= 5


def test_the_detector_reads_its_targets_once_at_every_batch_size():
    model = ssd300_vgg16(4, width=0.02, dropout=0)
    detector = Detector(model, MultiboxLoss(model.default_boxes), PostProcess(model.default_boxes))
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 30.0]]), "labels": torch.tensor([2])}
    for number in (1, 16):
        with OperationCount() as count:
            detector._pad([target] * number, torch.full((number, 2), 60))
        assert (count.syncs, count.uploads) == (1, 0)


def test_torchvisions_post_processing_and_loss_are_counted_per_image():
    """4185 operations at batch 8, and 2016 at batch 32, of which 62 per image."""
    peer, output = TorchvisionSSD(DEFAULT_BOXES, 81), trained_output(8, DEFAULT_BOXES, 81, 20)
    with torch.no_grad(), nms_as_on_a_gpu(), OperationCount() as count:
        peer.post_process(output)
    assert count.by_name["nms"] == 8  # one per image
    assert count.operations == pytest.approx(4185, abs=20)
    boxes, labels = synthetic_targets(2, 81)
    targets = torchvision_targets(boxes, labels)
    assert [target["labels"].tolist() for target in targets] == [labels[0, :1].tolist(), labels[1, :2].tolist()]
    torch.testing.assert_close(targets[1]["boxes"], boxes[1, :2] * 300)
    leaves = on_device(untrained_output(2, 8732, 81), torch.device("cpu"), requires_grad=True)
    with OperationCount() as count:
        backward(peer.loss, leaves, targets)
    assert count.operations == pytest.approx(2016 - 30 * 62, abs=5)


def test_beyond_100_000_coordinates_torchvision_suppresses_class_by_class_on_a_gpu_too():
    boxes, classes = torch.rand(25_001, 4), torch.arange(25_001) % 7
    for number, times in ((25_000, 1), (25_001, 7)):
        with nms_as_on_a_gpu(), OperationCount() as count:
            torchvision.ops.boxes.batched_nms(boxes[:number], boxes[:number, 0], classes[:number], 0.5)
        assert count.by_name["nms"] == times


def test_the_table_measures_every_goal_of_operations_and_torchvision_takes_more():
    table = operations.measure(Settings(quick=True), num_classes=21)
    assert set(table.measured) == {key for key in GOALS if key.startswith("operations.")}
    assert {GOALS[key].verdict(value) for key, value in table.measured.items()} == {"met"}
    assert all(row["torchvision_operations"] > row["operations"] for row in table.rows)
