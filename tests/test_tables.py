"""Tables keep their rows, and reach other processes without being copied."""

import copy
import pickle

import numpy as np
import pytest
import torch.multiprocessing

from ssdnorm.coco_format import coco_dict, detection_table, ground_truth_table
from ssdnorm.data import ShapesDataset, subset
from ssdnorm.tables import SharedArrays, in_id_order
from tests.metrics.random_sets import draw_set


def test_images_and_objects_are_selected_with_all_their_columns():
    table = ground_truth_table(draw_set(2, crowd=0.3, difficult=0.3)[0])
    content = coco_dict(table)
    part = coco_dict(table.select_images(np.array([4, 1])))
    assert part["images"] == [content["images"][4], content["images"][1]]
    ids = [image["id"] for image in part["images"]]
    assert part["annotations"] == [row for i in ids for row in content["annotations"] if row["image_id"] == i]
    kept = coco_dict(table.select_objects(table.iscrowd))
    assert kept["images"] == content["images"]
    assert kept["annotations"] == [row for row in content["annotations"] if row["iscrowd"]]


def test_in_the_order_of_ids_every_row_still_says_the_same():
    content, found = draw_set(3, num_classes=5)
    table = ground_truth_table(content)
    detections = detection_table(found, table)
    truth, ordered = in_id_order(table, detections)
    assert (np.diff(truth.image_ids) > 0).all()
    assert (np.diff(truth.category_ids) > 0).all()
    by_id = {row["id"]: row for row in coco_dict(table)["annotations"]}
    assert {row["id"]: row for row in coco_dict(truth)["annotations"]} == by_id
    assert dict(zip(truth.category_ids, truth.class_names, strict=True)) == dict(
        zip(table.category_ids, table.class_names, strict=True)
    )
    np.testing.assert_array_equal(truth.image_ids[ordered.image], table.image_ids[detections.image])
    np.testing.assert_array_equal(truth.category_ids[ordered.labels - 1], table.category_ids[detections.labels - 1])
    assert in_id_order(truth, ordered) == (truth, ordered)


class Numbers(SharedArrays):
    def __init__(self):
        self.values = np.arange(5.0)
        self.none = np.empty((0, 4))
        self.ids = np.array(["a", None], object)
        self.name = "five"


def add_one(numbers, ready):
    assert numbers.none.shape == (0, 4)
    assert (numbers.name, numbers.ids.tolist()) == ("five", ["a", None])
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
        assert isinstance(other.values, np.ndarray)
        assert (other.values.tolist(), other.name) == (numbers.values.tolist(), "five")
    data = ShapesDataset(4, seed=0, image_size=(40, 50))
    for mine in (data, subset(data, [2, 0])):
        theirs = pickle.loads(pickle.dumps(mine))
        assert coco_dict(theirs.ground_truth) == coco_dict(mine.ground_truth)
        np.testing.assert_array_equal(theirs.load_image(1), mine.load_image(1))
