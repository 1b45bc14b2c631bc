"""Post-processing against torchvision's SSD and against rules one by one."""

import pytest
import torch
from torchvision.ops import box_iou, nms

from benchmarks.torchvision_ssd import TorchvisionSSD
from ssdnorm import BoxCoder, PostProcess, SSDOutput, make_default_boxes
from ssdnorm.boxes.matcher import default_box_iou
from tests.operation_count import OperationCount

DEFAULT_BOXES = make_default_boxes("ssd300_coco")
SIZES = torch.tensor([[300, 300]])


def realistic_output(num_classes: int, num_objects: int, seed: int) -> SSDOutput:
    """What a trained network gives: background nearly everywhere, several overlapping boxes on each object."""
    torch.manual_seed(seed)
    locs, logits = torch.randn(1, 8732, 4) * 0.5, torch.randn(1, 8732, num_classes) * 0.5
    logits[..., 0] += 10
    centre, half = torch.rand(num_objects, 2) * 0.8 + 0.1, torch.rand(num_objects, 2) * 0.15 + 0.04
    objects = torch.cat((centre - half, centre + half), dim=1)
    iou, owner = default_box_iou(objects, DEFAULT_BOXES).max(dim=0)
    near = iou > 0.4
    labels = torch.randint(1, num_classes, (num_objects,))
    logits[0, near, 0] -= 8
    logits[0, near, labels[owner[near]]] += 6 * iou[near]
    locs[0] = BoxCoder().encode(objects[owner], DEFAULT_BOXES) + 0.3 * torch.randn(8732, 4)
    return SSDOutput(locs, logits)


def trained_output(num_images: int, num_classes: int, num_objects: int) -> SSDOutput:
    outputs = [realistic_output(num_classes, num_objects, seed) for seed in range(num_images)]
    return SSDOutput(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))


@pytest.mark.parametrize(("num_classes", "num_objects"), [(21, 20), (91, 20), (21, 200), (2, 3)])
def test_detections_equal_torchvisions_in_the_same_order(num_classes, num_objects):
    output = realistic_output(num_classes, num_objects, seed=num_objects)
    got = PostProcess(DEFAULT_BOXES)(output, SIZES)[0]
    expected = TorchvisionSSD(DEFAULT_BOXES, num_classes).post_process(output)[0]
    assert torch.equal(got["labels"], expected["labels"])
    torch.testing.assert_close(got["boxes"], expected["boxes"], rtol=0, atol=0.01)
    torch.testing.assert_close(got["scores"], expected["scores"], rtol=1e-5, atol=1e-6)


def test_an_image_gets_the_same_detections_alone_and_in_a_batch():
    outputs = [realistic_output(11, n, seed=n) for n in (5, 60, 1)]
    outputs.append(SSDOutput(torch.zeros(1, 8732, 4), torch.zeros(1, 8732, 11).index_fill(2, torch.tensor(0), 99.0)))
    batch = SSDOutput(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))
    together = PostProcess(DEFAULT_BOXES)(batch, SIZES.repeat(4, 1))
    for output, detections in zip(outputs, together, strict=True):
        alone = PostProcess(DEFAULT_BOXES)(output, SIZES)[0]
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(alone[key], detections[key]), key
    assert together[3]["boxes"].shape == (0, 4)


def test_looking_at_few_candidates_first_changes_nothing(monkeypatch):
    output = realistic_output(21, 100, seed=1)
    expected = PostProcess(DEFAULT_BOXES)(output, SIZES)[0]
    for first in (1, 30, 10**6):
        monkeypatch.setattr("ssdnorm.models.post_process._FIRST_CANDIDATES", first)
        got = PostProcess(DEFAULT_BOXES)(output, SIZES)[0]
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(got[key], expected[key]), key


def one_by_one(output: SSDOutput, top_k: int = 400, max_detections: int = 200) -> list[tuple]:
    """Scores, labels and boxes of one image by the words of the class: a loop over classes and their candidates."""
    scores = output.logits[0].softmax(dim=-1)
    boxes = BoxCoder().decode(output.locs[0], DEFAULT_BOXES).clamp(0, 1)
    found = []
    for label in range(1, scores.shape[1]):
        order = scores[:, label].argsort(descending=True)[:top_k]
        order = order[scores[order, label] > 0.01]
        iou, free = box_iou(boxes[order], boxes[order]), torch.ones(len(order), dtype=torch.bool)
        for i in range(len(order)):
            if free[i]:
                found.append((scores[order[i], label].item(), label, (boxes[order[i]] * 300).tolist()))
                free &= iou[i] <= 0.45
    return sorted(found, key=lambda one: -one[0])[:max_detections]


@pytest.mark.parametrize(
    ("num_classes", "louder", "options"),
    [
        (4, 4, {}),
        (12, 4, {}),
        (12, 2, {"max_detections": 40}),
        (4, 4, {"top_k": 30}),
        pytest.param(2, 8, {"top_k": 9000}, marks=pytest.mark.slow),
    ],
)
def test_few_classes_with_very_many_candidates_give_what_a_loop_gives(num_classes, louder, options):
    output = trained_output(1, num_classes, 5)
    output.logits[..., 0] -= louder
    expected = one_by_one(output, **options)
    got = PostProcess(DEFAULT_BOXES, **options)(output, SIZES)[0]
    scores, labels, boxes = zip(*expected, strict=True)
    assert got["labels"].tolist() == list(labels)
    torch.testing.assert_close(got["scores"], torch.tensor(scores), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got["boxes"], torch.tensor(boxes), rtol=0, atol=0.01)


def test_a_class_that_has_all_the_best_scores_still_gets_its_top_k_alone():
    torch.manual_seed(4)
    output = SSDOutput(torch.randn(1, 8732, 4) * 0.1, torch.randn(1, 8732, 12) * 0.1)
    output.logits[..., 3] += 2
    expected = one_by_one(output, top_k=190)
    got = PostProcess(DEFAULT_BOXES, top_k=190)(output, SIZES)[0]
    assert got["labels"].tolist() == [one[1] for one in expected]
    assert set(got["labels"].tolist()) > {3}


@pytest.mark.parametrize("rows", [300, 3000])
def test_nms_of_groups_of_images_as_on_a_gpu_gives_the_same(monkeypatch, rows):
    output = trained_output(3, 12, 5)
    output.logits[..., 0] -= 4
    sizes = SIZES.repeat(3, 1)
    expected = PostProcess(DEFAULT_BOXES, max_detections=120)(output, sizes)
    numbers = []

    def counting_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
        numbers.append(len(boxes))
        return nms(boxes, scores, threshold)

    monkeypatch.setattr("ssdnorm.models.post_process._NMS_ROWS", rows)
    monkeypatch.setattr("ssdnorm.models.post_process._groups_images", lambda boxes: True)
    monkeypatch.setattr("ssdnorm.models.post_process.nms", counting_nms)
    got = PostProcess(DEFAULT_BOXES, max_detections=120)(output, sizes)
    assert numbers[0] == {300: 1000, 3000: 3000}[rows]
    for here, there in zip(expected, got, strict=True):
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(here[key], there[key]), key


def test_the_last_class_of_an_image_does_not_suppress_the_first_class_of_the_next(monkeypatch):
    monkeypatch.setattr("ssdnorm.models.post_process._groups_images", lambda boxes: True)
    logits = torch.tensor([[[0.0, -9.0, 2.0]], [[0.0, 2.0, -9.0]]])
    got = PostProcess(torch.tensor([[0.3, 0.3, 0.2, 0.2]]))(SSDOutput(torch.zeros(2, 1, 4), logits), SIZES.repeat(2, 1))
    assert [one["labels"].tolist() for one in got] == [[2], [1]]


def test_boxes_are_in_pixels_of_the_original_image_and_inside_it():
    default = torch.tensor([[0.95, 0.5, 0.2, 0.5]])
    output = SSDOutput(torch.zeros(1, 1, 4), torch.tensor([[[0.0, 5.0]]]))
    boxes = PostProcess(default)(output, torch.tensor([[200, 400]]))[0]["boxes"]
    torch.testing.assert_close(boxes, torch.tensor([[0.85 * 400, 50.0, 400.0, 150.0]]))


@pytest.mark.parametrize("num_classes", [3, 13])  # the top_k of each class first; the best of all classes first
def test_of_top_k_and_one_more_candidates_of_a_class_the_last_is_dropped(num_classes):
    spots = torch.arange(1, 202) / 202
    boxes = torch.stack((spots, spots, *torch.full((2, 201), 0.004)), dim=1)  # none overlap
    logits = torch.full((1, 201, num_classes), -5.0)
    logits[..., 0], logits[..., 1] = 0.0, torch.linspace(5, 6, 201)
    found = PostProcess(boxes, top_k=200, max_detections=300)(SSDOutput(torch.zeros(1, 201, 4), logits), SIZES)[0]
    assert found["labels"].tolist() == [1] * 200
    torch.testing.assert_close(found["boxes"][:, :2].mean(dim=1) / 300 + 0.002, spots.flip(0)[:200])


def test_equal_scores_of_few_classes_stand_in_the_order_of_their_boxes():
    spots = torch.arange(20) / 20 + 1 / 40
    grid = torch.stack(torch.meshgrid(spots, spots, indexing="ij"), dim=-1).reshape(-1, 2)
    boxes = torch.cat((grid, torch.full_like(grid, 1 / 30)), dim=1)  # 400 that do not overlap
    logits = torch.zeros(1, len(boxes), 3)
    logits[..., 1] = 2.0
    output = SSDOutput(torch.zeros(1, len(boxes), 4), logits)
    found = PostProcess(boxes)(output, SIZES)[0]
    centres = (found["boxes"][:, :2] + found["boxes"][:, 2:]) / 2 / SIZES[0].flip(0)
    torch.testing.assert_close(centres, grid[:200])


def test_a_score_must_exceed_the_threshold():
    default = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    output = SSDOutput(torch.zeros(1, 1, 4), torch.zeros(1, 1, 2))  # score one half
    assert len(PostProcess(default, score_threshold=0.5)(output, SIZES)[0]["scores"]) == 0
    assert len(PostProcess(default, score_threshold=0.49)(output, SIZES)[0]["scores"]) == 1
    assert len(PostProcess(default, score_threshold=0.0)(output, SIZES)[0]["scores"]) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"score_threshold": 1.0}, r"post_process.score_threshold: must lie in \[0, 1\); got 1.0"),
        ({"nms_threshold": -0.1}, r"post_process.nms_threshold: must lie in \[0, 1\]; got -0.1"),
        ({"top_k": 0}, r"post_process.top_k: must be 1 or more; got 0"),
        ({"max_detections": 0}, r"post_process.max_detections: must be 1 or more; got 0"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        PostProcess(DEFAULT_BOXES, **option)


def test_the_four_numbers_may_be_given_by_place():
    assert repr(PostProcess(DEFAULT_BOXES, 0.1, 0.5, 9, 7)).endswith(
        "0.1, nms_threshold=0.5, top_k=9, max_detections=7)"
    )


@pytest.mark.parametrize(
    ("locs", "logits", "sizes"),
    [((2, 99, 4), (2, 99, 5), 2), ((2, 8732, 4), (2, 8732, 5), 1), ((2, 99, 4), (2, 8732, 5), 2)],
)
def test_output_of_other_boxes_and_sizes_of_other_images_are_refused(locs, logits, sizes):
    post_process = PostProcess(make_default_boxes("ssd300_voc"))
    with pytest.raises(
        ValueError, match=r"PostProcess: expected .*8732|PostProcess: expected sizes \(2, 2\); got \(1, 2\)"
    ):
        post_process(SSDOutput(torch.zeros(locs), torch.zeros(logits)), torch.full((sizes, 2), 300))


@pytest.mark.parametrize(
    ("num_classes", "num_objects", "background", "operations", "syncs"),
    [(21, 20, 0, 60, 4), (91, 20, 0, 60, 4), (4, 5, 4, 60, 4), (21, 200, 0, 110, 5)],
)
def test_operations_and_syncs_do_not_grow_with_the_batch(
    monkeypatch, num_classes, num_objects, background, operations, syncs
):
    output = trained_output(8, num_classes, num_objects)
    output.logits[..., 0] -= background  # with 4, nearly every box passes the threshold in every class
    post_process, sizes = PostProcess(DEFAULT_BOXES), SIZES.repeat(8, 1)
    monkeypatch.setattr("ssdnorm.models.post_process._groups_images", lambda boxes: True)
    with OperationCount() as count:
        post_process(output, sizes)
    assert count.operations <= operations, count.names
    assert count.syncs <= syncs, count.names
