import pytest

from ssdnorm.coco_format import ground_truth_table, result_rows
from ssdnorm.metrics import evaluate_coco, evaluate_voc, read_voc_detections, write_voc_detections

from .random_sets import draw_set


def test_written_files_read_back_to_the_same_numbers(tmp_path):
    truth, found = draw_set(2, tied=True, difficult=0.2)
    paths = write_voc_detections(tmp_path, truth, found)
    assert sorted(path.name for path in paths) == [f"comp4_det_test_class {c}.txt" for c in (5, 7, 9)]
    back = read_voc_detections(tmp_path, truth)
    assert evaluate_voc(truth, back).per_class == evaluate_voc(truth, found).per_class
    order = [category["id"] for category in truth["categories"]]
    in_class_order = [row for c in order for row in found if row["category_id"] == c]
    assert result_rows(ground_truth_table(truth), back) == in_class_order
    assert evaluate_coco(truth, back).metrics == evaluate_coco(truth, in_class_order).metrics


def test_pixels_are_one_based_and_scores_keep_every_digit(tmp_path):
    truth, _ = draw_set(2)
    score = 0.1 + 0.2
    row = {"image_id": 4, "category_id": 7, "bbox": [0.0, 10.0, 5.0, 2.0], "score": score}
    write_voc_detections(tmp_path, truth, [row])
    line = (tmp_path / "comp4_det_test_class 7.txt").read_text()
    assert line == f"photo_004 {score!r} 1.0 11.0 5.0 12.0\n"
    assert (tmp_path / "comp4_det_test_class 5.txt").read_text() == ""


def test_images_without_a_file_name_are_named_by_their_id(tmp_path):
    truth, _ = draw_set(2)
    for image in truth["images"]:
        del image["file_name"]
    write_voc_detections(tmp_path, truth, [{"image_id": 4, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 1.0}])
    assert (tmp_path / "comp4_det_test_class 7.txt").read_text().startswith("4 1.0 ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photo_004 0.5 1 1 5", r"class 7.txt, line 2: got 'photo_004 0.5 1 1 5', allowed: image score xmin"),
        ("photo_004 high 1 1 5 5", "line 2: got 'photo_004 high 1 1 5 5', allowed: image score xmin"),
        ("photo_999 0.5 1 1 5 5", "line 2: image 'photo_999' is not in the ground truth, which has 6 images"),
        ("photo_004 nan 1 1 5 5", "line 2: got 'photo_004 nan 1 1 5 5', allowed: finite numbers"),
        ("photo_004 0.5 9 1 5 5", "line 2: got 'photo_004 0.5 9 1 5 5', allowed: xmin <= xmax"),
    ],
)
def test_a_bad_line_is_refused_with_file_and_number(tmp_path, line, message):
    path = tmp_path / "comp4_det_test_class 7.txt"
    path.write_text(f"photo_004 0.5 1 1 5 5\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_voc_detections(tmp_path, draw_set(2)[0])


def test_a_folder_without_files_and_an_unknown_class_are_refused(tmp_path):
    truth, _ = draw_set(2)
    with pytest.raises(ValueError, match=r"no file comp4_det_test_<class>.txt in this folder"):
        read_voc_detections(tmp_path, truth)
    (tmp_path / "comp4_det_test_unicorn.txt").write_text("")
    with pytest.raises(ValueError, match="unknown class 'unicorn'; choose one of: class "):
        read_voc_detections(tmp_path, truth)


def test_images_that_share_a_stem_and_class_names_with_a_path_are_refused(tmp_path):
    truth, _ = draw_set(2)
    truth["images"][0]["file_name"] = "elsewhere/" + truth["images"][1]["file_name"]
    with pytest.raises(ValueError, match="is the stem of two images"):
        write_voc_detections(tmp_path, truth, [])
    truth, _ = draw_set(2)
    truth["categories"][0]["name"] = "../dog"
    with pytest.raises(ValueError, match=r"'\.\./dog': got a name with a path in it"):
        write_voc_detections(tmp_path, truth, [])
