"""The pipelines that are timed against ours do what ours does: the same boxes, the same pictures, on one thread."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from benchmarks.goals import GOALS
from benchmarks.photos import draw_photo, load_photos, write_photo_dataset
from benchmarks.pipeline import measure, one_thread
from benchmarks.pipeline_peers import TorchvisionPil, TorchvisionTensors
from benchmarks.timing import Settings
from ssdnorm.data import CocoDataset, EncodedImage, TrainTransform

FILL = (124, 116, 104)
PEERS = {"pil": TorchvisionPil, "tensors": TorchvisionTensors}
BOXES = np.array([[5, 8, 40, 50], [30, 10, 75, 55], [50, 40, 62, 52]], np.float32)


def jpeg(picture):
    return cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PEERS)
def test_boxes_follow_the_object_through_every_step(name):
    picture = np.zeros((80, 100, 3), np.uint8)
    picture[20:60, 30:70] = 255
    peer, found = PEERS[name](60, (0, 0, 0)), 0
    for _ in range(60):
        image, boxes, labels = peer(jpeg(picture), np.array([[30, 20, 70, 60]], np.float32), np.array([7]))
        assert image.shape == (3, 60, 60)
        assert labels.tolist() == [7] * len(boxes)
        bright = image.float().mean(0) > 80
        if len(boxes) and bright.any():
            rows, columns = (torch.nonzero(bright.any(dim)).flatten() for dim in (1, 0))
            edges = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 60
            torch.testing.assert_close(boxes[0].float(), edges.float(), rtol=0, atol=0.04)
            found += 1
    assert found > 40


@pytest.mark.parametrize("name", PEERS)
def test_torchvisions_pipelines_keep_as_many_boxes_as_large_as_ours(name):
    data, labels, draws = jpeg(draw_photo(60, 80, seed=0)), np.arange(1, 4), 100
    ours, rng = TrainTransform(30), np.random.default_rng(0)
    theirs = PEERS[name](30, FILL)
    mine = [ours(EncodedImage(data, "photo"), BOXES, labels, rng=rng)[1] for _ in range(draws)]
    others = [theirs(data, BOXES, labels)[1] for _ in range(draws)]
    for number in (len, lambda boxes: float((boxes[:, 2:] - boxes[:, :2]).prod(1).sum())):
        a, b = (np.array([number(boxes) for boxes in results]) for results in (mine, others))
        assert ks_2samp(a, b, method="asymp").pvalue > 0.001


def test_drawn_photos_cost_about_as_many_bytes_as_real_ones():
    photos, what = load_photos(None, 3)
    assert what == "3 drawn photos"
    assert all(EncodedImage(photo, "photo").size == (375, 500) for photo in photos)
    assert 45_000 < np.mean([len(photo) for photo in photos]) < 85_000
    assert len(set(photos)) == 3


def test_photos_of_a_folder_are_scaled_to_one_size_and_repeated(tmp_path):
    for i in range(3):
        Image.fromarray(draw_photo(90, 70, seed=i)).save(tmp_path / f"{i}.JPG")
    photos, what = load_photos(tmp_path, 4)
    assert what == f"4 photos (3 different) of {tmp_path.name}"
    assert [EncodedImage(photo, "photo").size for photo in photos] == [(375, 500)] * 4
    assert photos[3] == photos[0]


def test_a_folder_without_jpegs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no JPEG in it; expected a folder of photos"):
        load_photos(tmp_path, 2)


def test_one_thread_is_given_back():
    before = torch.get_num_threads(), cv2.getNumThreads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_photos_become_a_data_set_with_five_boxes_each(tmp_path):
    photos, _ = load_photos(None, 2)
    data = CocoDataset(*write_photo_dataset(tmp_path, photos))
    assert data.open_image(1).data == photos[1]
    assert [len(data.training_boxes(i)[0]) for i in range(2)] == [5, 5]


def test_the_table_has_every_pipeline_and_goal():
    table = measure(Settings(quick=True))
    names = ["torchvision v1 (PIL)", "torchvision v2 (tv_tensors)", "ssdnorm, training", "ssdnorm, evaluation"]
    assert [row["pipeline"] for row in table.rows] == [*names, "decoding alone (OpenCV)"]
    assert [row["speedup_of_ours"] for row in table.rows[:2]] == list(table.measured.values())
    assert set(table.measured) <= set(GOALS)
    assert "8 drawn photos" in table.about
