"""The same picture in two splits is found, also when it was stored again; others are not."""

import cv2
import numpy as np

from ssdnorm.data.yolo import YoloDataset
from ssdnorm.own_data.duplicates import find_duplicates
from tests.data.small_sets import YoloFolder


def test_a_picture_stored_again_is_found_and_another_is_not(tmp_path):
    folder = YoloFolder(tmp_path / "a")
    for seed in range(8):
        folder.add(f"p{seed}", seed=seed)
        folder.add(f"q{seed}", seed=seed + 100, split="test")
    picture = cv2.imread(str(folder.root / "train" / "images" / "p3.jpg"))
    again = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    np.asarray(again).tofile(folder.root / "test" / "images" / "copy.jpg")
    datasets = {"train": YoloDataset(folder.root, "train"), "test": YoloDataset(folder.root, "test")}
    for split, name in (("train", "p5"), ("test", "q4")):  # the sixth of both splits
        (folder.root / split / "images" / f"{name}.jpg").write_bytes(b"no picture any more")
    assert datasets["train"].image_name(5) == "p5.jpg"
    assert datasets["test"].image_name(5) == "q4.jpg"
    assert find_duplicates(datasets) == [("train", "p3.jpg", "test", "copy.jpg")]
