"""Batches with decoded images in memory are those without, whoever loads them."""

import numpy as np
import pytest
from PIL import Image

from ssdnorm.data import (
    CachedDataset,
    CocoDataset,
    EvalTransform,
    ShapesDataset,
    TrainTransform,
    VocDataset,
    image_cache,
    make_eval_loader,
    make_train_loader,
    subset,
)
from tests.small_training import tiny_config, tiny_module

from .small_sets import same_batches, smooth_photo, voc_object


@pytest.fixture
def photos(voc):
    """JPEGs that are large enough to be decoded smaller, one on its side by EXIF, a grey one, and a PNG."""
    sizes = [(300, 400), (390, 260), (200, 350), (150, 120), (310, 300)]
    for place, (height, width) in enumerate(sizes):
        name = f"photo_{place}"
        boxes = [voc_object("dog", 20, 30, 90, 100), voc_object("cat", 5, 5, 60, 100)]
        path = voc.add(name, *boxes, suffix=".png" if place == 3 else ".jpg", height=height, width=width)
        picture = Image.fromarray(smooth_photo(height, width, seed=place))
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.convert("L" if place == 4 else "RGB").save(path, **({"exif": exif} if place == 1 else {}))
    return VocDataset(voc.root, "train")


@pytest.mark.parametrize(("workers", "image_size"), [(0, None), (2, None), (0, 60), (0, (30, 90))])
def test_batches_are_the_same_in_every_bit(photos, workers, image_size):
    cached, reductions = CachedDataset(photos, budget_mib=2, image_size=image_size), set()
    options = {"batch_size": 4, "num_batches": 12, "seed": 1, "num_workers": workers}
    transform = TrainTransform(60)
    for view_seed in range(40):  # otherwise the test would not see that files are decoded smaller
        view = transform.draw_window(300, 400, photos.training_boxes(0)[0], np.random.default_rng(view_seed))
        reductions.add(min(view.width, view.height) // 120 >= 2)
    assert reductions == {True, False}
    loaders = [make_train_loader(data, transform, **options) for data in (photos, cached)]
    assert same_batches(*loaders)
    loaders = [
        make_eval_loader(data, EvalTransform(60), batch_size=2, num_workers=workers) for data in (photos, cached)
    ]
    assert same_batches(*loaders)


def test_jpegs_are_held_no_larger_than_the_network_can_use_them(photos, voc):
    cached, in_full = CachedDataset(photos, budget_mib=1, image_size=60), CachedDataset(photos, budget_mib=2)
    for path in (voc.root / "JPEGImages").iterdir():
        path.unlink()
    assert in_full.open_image(0).decode().shape == (300, 400, 3)
    image = cached.open_image(0)
    assert (image.size, image.reductions, cached.open_image(3).reductions) == ((300, 400), (1, 2, 4, 8), (1,))
    assert image.decode(2).shape == (150, 200, 3)  # 300 is 5 times 60: half of it is twice as fine as needed
    with pytest.raises(FileNotFoundError, match=r"photo_0\.jpg"):
        image.decode(1)
    assert cached.load_image(3).shape == (150, 120, 3)  # a PNG is held as it is


def test_drawn_pictures_are_kept_too():
    shapes = ShapesDataset(5, seed=0, image_size=(40, 50))
    cached = CachedDataset(shapes, budget_mib=1)
    for i in range(5):
        np.testing.assert_array_equal(cached.open_image(i), shapes.open_image(i))


def test_a_part_of_it_has_the_right_images_before_and_after(photos):
    places = [3, 0, 4]
    parts = [subset(CachedDataset(photos, budget_mib=2), places), CachedDataset(subset(photos, places), budget_mib=2)]
    for part in parts:
        for i, place in enumerate(places):
            np.testing.assert_array_equal(part.load_image(i), photos.load_image(place))
            assert part.image_name(i) == photos.image_name(place)


def test_what_is_taken_out_can_be_painted_on(photos):
    cached = CachedDataset(photos, budget_mib=2)
    cached.load_image(0)[:] = 0
    np.testing.assert_array_equal(cached.load_image(0), photos.load_image(0))


def test_a_set_that_does_not_fit_is_refused_before_a_file_is_read(photos, voc):
    for path in (voc.root / "JPEGImages").iterdir():
        path.unlink()
    message = "runtime.cache_images: 5 images take 2 MiB decoded; got a budget of 1 MiB. Raise it, or leave"
    with pytest.raises(ValueError, match=message):
        CachedDataset(photos, budget_mib=1, where="runtime.cache_images")


def test_annotated_sizes_that_are_wrong_do_no_harm(coco):
    coco.add_image(1, "a.jpg")  # 40 × 30
    coco.content["images"][0].update(width=20, height=10)
    coco.annotate(1, 3, [1, 2, 3, 4])
    data = CocoDataset(*coco.save())
    np.testing.assert_array_equal(CachedDataset(data, budget_mib=1).load_image(0), data.load_image(0))


def test_shared_memory_that_is_too_small_is_told_from_the_budget(photos, monkeypatch, tmp_path):
    monkeypatch.setattr(image_cache, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    with pytest.raises(ValueError, match=r"cache_images: 5 images take 2 MiB decoded; .* has 1 MiB free"):
        CachedDataset(photos, budget_mib=9, where="cache_images")


def test_a_training_uses_the_cache_where_the_config_asks_for_it(photos):
    def batches(runtime):
        loader = tiny_module(tiny_config(runtime=runtime)).make_train_loader()
        return loader.dataset.dataset, list(loader)

    plain, mine = batches({})
    cached, theirs = batches({"cache_images": 3})
    assert not isinstance(plain, CachedDataset)
    assert isinstance(cached, CachedDataset)
    assert same_batches(mine, theirs)
    with pytest.raises(ValueError, match=r"runtime\.cache_images: 10 images take 3 MiB decoded; got a budget of 1 MiB"):
        batches({"cache_images": 1})


@pytest.mark.slow
def test_a_spawned_worker_loads_the_same_batches_with_and_without_the_cache(coco, monkeypatch):
    for i in range(4):
        coco.add_image(i + 1, f"{i}.jpg")
        coco.annotate(i + 1, 3, [1, 2, 20, 20])
    data = CocoDataset(*coco.save())
    options = {"batch_size": 2, "num_batches": 4, "seed": 0}
    alone = list(make_train_loader(data, TrainTransform(24), **options))
    for dataset in (data, CachedDataset(data, budget_mib=1)):
        loader = make_train_loader(dataset, TrainTransform(24), **options, num_workers=1)
        loader.multiprocessing_context = "spawn"
        assert same_batches(alone, loader)
