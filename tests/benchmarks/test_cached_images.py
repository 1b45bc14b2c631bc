"""What the cache saves is measured on the same samples."""

import pytest
import torch

from benchmarks.cached_images import dataset_of, measure
from benchmarks.photos import load_photos
from benchmarks.table import Settings
from ssdnorm.data import EncodedImage


@pytest.fixture
def paths(tmp_path):
    photos, _ = load_photos(None, 2, size=(480, 640))
    for i, photo in enumerate(photos):
        (tmp_path / f"{i}.jpg").write_bytes(photo)
    return sorted(tmp_path.iterdir())


def test_files_become_a_data_set_with_five_boxes_each(paths):
    data = dataset_of(paths)
    assert [data.image_size(i) for i in range(len(data))] == [(480, 640), (480, 640)]
    assert isinstance(data.open_image(1), EncodedImage)
    assert data.open_image(1).data == paths[1].read_bytes()
    assert data.ground_truth.num_objects == 10


@pytest.mark.parametrize("real", [True, False])
def test_the_table_has_training_and_evaluation_from_both(paths, real):
    threads = torch.get_num_threads()
    table = measure(Settings(quick=True, images=paths[0].parent if real else None))
    assert [row["samples"] for row in table.rows] == [
        "training, from files",
        "training, from memory",
        "evaluation, from files",
        "evaluation, from memory",
    ]
    assert [row["over_files"] for row in table.rows[::2]] == [1, 1]
    assert table.rows[3]["over_files"] > 1  # an evaluation sample is little else than decoding
    assert ("2 photos of" if real else "8 drawn photos, 640 × 480") in table.about
    assert torch.get_num_threads() == threads
