import itertools

import numpy as np
import pytest
import torch

from ssdnorm.data import (
    EvalBatchSampler,
    EvalTransform,
    Sample,
    Samples,
    ShapesDataset,
    TrainBatchSampler,
    TrainTransform,
    collate,
    make_eval_loader,
    make_train_loader,
)

from .small_sets import same_batches

SHAPES = ShapesDataset(7, seed=0, image_size=(40, 50))


def keys(sampler):
    return list(itertools.chain.from_iterable(sampler))


def test_every_image_comes_once_an_epoch_in_another_order():
    stream = keys(TrainBatchSampler(7, 3, 7, seed=5))
    epochs = [[index for epoch, index in stream if epoch == number] for number in range(3)]
    assert [sorted(order) for order in epochs] == [list(range(7))] * 3
    assert len({tuple(order) for order in epochs}) == 3
    assert [epoch for epoch, _ in stream] == [0] * 7 + [1] * 7 + [2] * 7
    assert keys(TrainBatchSampler(7, 21, 1, seed=5)) == stream, "a batch may be larger than the data set"
    assert keys(TrainBatchSampler(7, 3, 7, seed=6)) != stream


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_a_resumed_stream_is_the_rest_of_the_uninterrupted_one(start):
    whole = list(TrainBatchSampler(7, 3, 9, seed=1))
    rest = TrainBatchSampler(7, 3, 9, seed=1, start_batch=start)
    assert list(rest) == whole[start:]
    assert len(rest) == 9  # of the whole stream, for the progress of a resumed run
    assert list(rest) == whole[start:]  # and again


def test_ranks_share_out_the_stream_of_one_process_with_their_batch_sizes_together():
    ranks = [list(TrainBatchSampler(7, 2, 5, seed=1, rank=rank, world_size=3)) for rank in range(3)]
    together = [list(itertools.chain(*batches)) for batches in zip(*ranks, strict=True)]
    assert together == list(TrainBatchSampler(7, 6, 5, seed=1))


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_evaluation_sees_every_image_once_over_all_ranks(world_size):
    samplers = [EvalBatchSampler(7, 2, rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = [index for sampler in samplers for _, index in keys(sampler)]
    assert sorted(seen) == list(range(7))
    assert all(len(sampler) == len(list(sampler)) for sampler in samplers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainBatchSampler(0, 1, 1, seed=0), "num_images: expected 1 or more; got 0"),
        (lambda: TrainBatchSampler(5, 0, 1, seed=0), "batch_size: expected 1 or more; got 0"),
        (lambda: TrainBatchSampler(5, 1, 3, seed=0, start_batch=4), r"start_batch: expected 0 to num_batches \(3\)"),
        (lambda: EvalBatchSampler(5, 1, rank=2, world_size=2), r"rank: expected 0 to world_size − 1 \(1\); got 2"),
        (lambda: make_eval_loader(SHAPES, EvalTransform(8), batch_size=1, num_workers=-1), "num_workers: expected 0"),
    ],
)
def test_impossible_counts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    samples = Samples(SHAPES, TrainTransform(32), seed=0)
    first = samples[(3, 2)].image
    for other in ((3, 1), (4, 2)):
        assert not torch.equal(samples[other].image, first)
    assert torch.equal(samples[(3, 2)].image, first)
    assert not torch.equal(Samples(SHAPES, TrainTransform(32), seed=1)[(3, 2)].image, first)


def sample(value, labels, index):
    boxes = torch.full((len(labels), 4), float(value))
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 4, 4) + value
    return Sample(image, boxes, torch.tensor(labels, dtype=torch.int64), (10 * value, 20 * value), index)


def test_collate_pads_with_label_0_and_keeps_every_field():
    batch = collate([sample(1, [5, 6], 30), sample(2, [], 10), sample(3, [7], 20)])
    assert batch.labels.tolist() == [[5, 6], [0, 0], [7, 0]]
    assert batch.boxes[..., 0].tolist() == [[1, 1], [0, 0], [3, 0]]
    assert batch.sizes.tolist() == [[10, 20], [20, 40], [30, 60]]
    assert batch.indices.tolist() == [30, 10, 20]
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for row, value in enumerate((1, 2, 3)):
        assert torch.equal(batch.images[row], sample(value, [], 0).image)


def test_a_batch_without_any_object_has_no_rows():
    batch = collate([sample(1, [], 0), sample(2, [], 1)])
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.labels.shape == (2, 0)


def test_workers_change_nothing_and_the_global_generator_is_left_alone():
    options = {"batch_size": 3, "num_batches": 4, "seed": 2}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    alone = list(make_train_loader(SHAPES, TrainTransform(32), **options))
    shared = make_train_loader(SHAPES, TrainTransform(32), **options, num_workers=2)
    for _ in range(2):  # persistent workers start the same stream again
        assert same_batches(alone, shared)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_evaluation_loader_gives_sizes_and_places_of_all_images():
    batches = list(make_eval_loader(SHAPES, EvalTransform(16), batch_size=4))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6]]
    assert batches[1].sizes.tolist() == [[40, 50]] * 3
    boxes, labels = SHAPES.training_boxes(1)
    np.testing.assert_allclose(batches[0].boxes[1, : len(boxes)], boxes / [50, 40, 50, 40], rtol=1e-5)
    assert batches[0].labels[1, : len(labels)].tolist() == labels.tolist()
