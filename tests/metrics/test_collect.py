import multiprocessing
import socket
from typing import Any

import numpy as np
import pytest
import torch

from ssdnorm.metrics import CocoMetric, VocMetric


def image(image_id: int | None = None, *, shift: float = 0.0, label: int = 1, score: float = 0.5) -> tuple[dict, dict]:
    box = torch.tensor([[10.0, 10.0, 50.0, 60.0]])
    target: dict[str, Any] = {"boxes": box, "labels": torch.tensor([label])}
    if image_id is not None:
        target["image_id"] = image_id
    return {"boxes": box + shift, "labels": torch.tensor([label]), "scores": torch.tensor([score])}, target


@pytest.mark.parametrize("metric", [CocoMetric, VocMetric])
def test_an_image_that_comes_twice_counts_once(metric):
    once, twice = metric(["dog"]), metric(["dog"])
    for n, images in ((once, [0, 1]), (twice, [0, 1, 0])):
        for image_id in images:
            found, target = image(image_id, shift=100.0 * image_id, score=0.5 + image_id / 10)
            n.update([found], [target])
    assert twice.compute() == once.compute()


def add(metric: CocoMetric, *arguments: Any, **options: Any) -> CocoMetric:
    found, target = image(*arguments, **options)
    metric.update([found], [target])
    return metric


def test_an_image_that_comes_again_with_other_boxes_says_reset():
    metric = add(CocoMetric(["dog"]), 7)
    with pytest.raises(ValueError, match="image_id 7 came before with other boxes; call reset"):
        add(metric, 7, shift=1.0)
    metric.reset()
    add(metric, 7, shift=1.0)


def test_images_without_an_id_all_count_and_have_the_area_of_their_boxes():
    metric = CocoMetric(["dog"])
    for _ in range(3):
        add(metric)
    assert metric.result().num_objects == [3]
    assert metric.compute()["APm"] == pytest.approx(1.0)
    assert metric.compute()["APl"] == -1.0


@pytest.mark.parametrize("names", [["dog", "cat"], {1: "dog", 2: "cat"}, ["__background__", "dog", "cat"], None])
def test_names_may_be_a_list_a_mapping_torchvisions_with_background_or_those_seen(names):
    numbers = add(CocoMetric(names), label=2).compute()
    assert numbers["AP/2" if names is None else "AP/cat"] == pytest.approx(1.0)
    assert numbers.get("AP/dog", -1.0) == -1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([3])}, r"detections\[0\]: labels: got 3, allowed: 1 to 2 \(2 classes\)"),
        ({"labels": torch.tensor([0])}, r"detections\[0\]: labels: got 0, allowed: 1 to 2"),
        ({"labels": torch.tensor([1, 1])}, r"detections\[0\]: labels: got 2 for 1 boxes"),
        ({"scores": torch.tensor([float("nan")])}, r"detections\[0\]: scores\[0\]: got nan, allowed: finite"),
        ({"boxes": torch.tensor([[5.0, 5.0, 4.0, 9.0]])}, r"detections\[0\]: boxes\[0\]: got .* x1 <= x2"),
        ({"boxes": torch.tensor([[5.0, 5.0, 9.0]])}, r"detections\[0\]: boxes: got shape \(1, 3\), allowed: \(N, 4\)"),
        ({"scores": None}, r"detections\[0\]: 'scores' is missing"),
    ],
)
def test_a_bad_tensor_is_refused_with_its_place(change, message):
    found, target = image()
    found |= change
    found = {key: value for key, value in found.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        CocoMetric(["dog", "cat"]).update([found], [target])


def test_batches_of_unequal_length_and_wrong_names_are_refused():
    with pytest.raises(ValueError, match=r"CocoMetric.update: got 1 detections for 0 targets"):
        CocoMetric().update([image()[0]], [])
    with pytest.raises(ValueError, match="class_names: got the string 'dog', allowed: a list of names"):
        CocoMetric("dog")
    with pytest.raises(ValueError, match="class_names: 'cat' is given twice"):
        CocoMetric(["cat", "dog", "cat"])


def test_half_precision_numpy_and_lists_are_taken():
    found, target = image()
    half = {key: value.half() if value.is_floating_point() else value for key, value in found.items()}
    for form in (half, {key: value.numpy() for key, value in found.items()}, {k: v.tolist() for k, v in found.items()}):
        metric = CocoMetric(["dog"])
        metric.update([form], [target])
        assert round(metric.compute()["AP"], 12) == 1.0


def test_empty_images_of_any_empty_shape_are_taken():
    metric = CocoMetric(["dog"])
    empty = {"boxes": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64), "scores": np.zeros(0)}
    metric.update([empty, image()[0]], [empty, image()[1]])
    assert round(metric.compute()["AP"], 12) == 1.0


def _worker(rank: int, port: int, images: list[int], send: Any) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metric = CocoMetric(["dog"])
    for image_id in images:
        add(metric, image_id, shift=5.0 * image_id, score=0.9 - image_id / 10)
    send.send(metric.compute())
    torch.distributed.destroy_process_group()


def test_two_processes_with_an_uneven_last_batch_count_each_image_once():
    alone = CocoMetric(["dog"])
    for image_id in range(5):
        add(alone, image_id, shift=5.0 * image_id, score=0.9 - image_id / 10)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(2)]
    parts = ([0, 2, 4], [1, 3, 0])  # five images on two processes: the sampler gives image 0 again
    workers = [fork.Process(target=_worker, args=(r, port, parts[r], pipes[r][1])) for r in range(2)]
    for worker in workers:
        worker.start()
    computed = [pipe[0].recv() if pipe[0].poll(30) else None for pipe in pipes]
    for worker in workers:
        worker.join(10)
    assert computed == [alone.compute()] * 2
