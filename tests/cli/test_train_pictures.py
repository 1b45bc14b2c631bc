"""Pictures of a run: boxes on the images they belong to."""

from ssdnorm.cli import train_pictures
from ssdnorm.coco_format import detection_table
from ssdnorm.data.coco import CocoDataset
from ssdnorm.engine.evaluation import evaluate_tables
from tests.data.small_sets import CocoFolder


def test_boxes_are_drawn_on_their_own_images_where_ids_do_not_rise(tmp_path, monkeypatch):
    folder = CocoFolder(tmp_path / "data")
    for image_id in (7, 2, 5):
        folder.add_image(image_id, f"{image_id}.png")
        folder.annotate(image_id, 3, [image_id, 1, 9, 9])
    dataset = CocoDataset(*folder.save())
    rows = [{"image_id": i, "category_id": 3, "bbox": [i, 2, 9, 9], "score": 0.9} for i in (7, 2, 5)]
    result = evaluate_tables(dataset.ground_truth, detection_table(rows, dataset.ground_truth))
    drawn, draw = {}, train_pictures.draw_side_by_side

    def spy(image, here, seen, *, title):
        drawn[title] = [box.box_px[:2] for box in (*here, *seen)]
        return draw(image, here, seen, title=title)

    monkeypatch.setattr(train_pictures, "draw_side_by_side", spy)
    train_pictures.draw_result(dataset, result, tmp_path)
    assert drawn == {f"{i}.png": [(i, 1), (i, 2)] for i in (7, 2, 5)}
