"""Operations and host syncs: the counter itself, torchvision's counts, and the table of both."""

import pytest
import torch
import torchvision

from benchmarks import operations
from benchmarks.goals import GOALS
from benchmarks.synthetic_outputs import backward, on_device, synthetic_targets, trained_output, untrained_output
from benchmarks.timing import Settings
from benchmarks.torchvision_ssd import TorchvisionSSD, nms_as_on_a_gpu, torchvision_targets
from ssdnorm import make_default_boxes
from tests.operation_count import OperationCount

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
        (lambda x: x[:2] * torch.tensor([1.0, 2.0]), 1, 1),  # numbers of the host
    ],
)
def test_views_are_free_and_reads_are_syncs(work, number, syncs):
    x = torch.arange(6.0)
    with OperationCount() as count:
        work(x)
    assert (count.operations, count.syncs) == (number, syncs), count.names


def test_torchvisions_post_processing_and_loss_are_counted_per_image():
    """4185 operations at batch 8, and 2016 at batch 32, of which 62 per image."""
    peer, output = TorchvisionSSD(DEFAULT_BOXES, 81), trained_output(8, DEFAULT_BOXES, 81, 20)
    with torch.no_grad(), nms_as_on_a_gpu(), OperationCount() as count:
        peer.post_process(output)
    assert count.names["nms"] == 8  # one per image
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
        assert count.names["nms"] == times


def test_the_table_measures_every_goal_of_operations_and_torchvision_takes_more():
    table = operations.measure(Settings(quick=True), num_classes=5)
    assert set(table.measured) == {key for key in GOALS if key.startswith("operations.")}
    assert {GOALS[key].verdict(value) for key, value in table.measured.items()} == {"met"}, table.measured
    assert all(row["torchvision_operations"] > row["operations"] for row in table.rows)
