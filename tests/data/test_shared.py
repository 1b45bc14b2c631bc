"""Arrays reach other processes without being copied."""

import copy
import doctest
import pickle

import numpy as np
import pytest
import torch.multiprocessing

import ssdnorm.data.shared
from ssdnorm.data import ShapesDataset, subset
from ssdnorm.data.shared import SharesArrays


class Numbers(SharesArrays):
    def __init__(self):
        self.values = np.arange(5.0)
        self.none = np.empty((0, 4))
        self.name = "five"


def test_the_example_runs():
    assert doctest.testmod(ssdnorm.data.shared).failed == 0


def add_one(numbers, ready):
    assert numbers.none.shape == (0, 4)
    assert numbers.name == "five"
    numbers.values += 1  # seen by the parent only if the memory is the same
    ready.put(numbers.values.tolist())


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_process_that_is_not_forked_maps_the_same_memory(method):
    context, numbers = torch.multiprocessing.get_context(method), Numbers()
    ready = context.SimpleQueue()
    child = context.Process(target=add_one, args=(numbers, ready))
    child.start()
    assert ready.get() == [1, 2, 3, 4, 5]
    child.join()
    assert numbers.values.tolist() == [1, 2, 3, 4, 5]


def test_memory_is_shared_once_for_all_processes():
    numbers = Numbers()
    first, second = numbers.__getstate__(), numbers.__getstate__()
    assert first["values"] is second["values"]
    assert first["values"].is_shared()
    assert numbers.values.ctypes.data == first["values"].data_ptr()


def test_copies_and_pickles_hold_the_same_numbers():
    numbers = Numbers()
    for other in (copy.copy(numbers), copy.deepcopy(numbers), pickle.loads(pickle.dumps(numbers))):
        assert other.values.tolist() == numbers.values.tolist()
        assert isinstance(other.values, np.ndarray)
        assert other.name == "five"


def test_a_data_set_survives_a_pickle_and_a_part_of_it_too():
    data = ShapesDataset(4, seed=0, image_size=(40, 50))
    for mine in (data, subset(data, [2, 0])):
        theirs = pickle.loads(pickle.dumps(mine))
        assert theirs.ground_truth() == mine.ground_truth()
        np.testing.assert_array_equal(theirs.load_image(1), mine.load_image(1))
