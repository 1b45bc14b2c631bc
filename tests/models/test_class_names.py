"""Class names: VOC's and COCO's words for one thing, and picking classes out of a checkpoint."""

import pytest
import torch

from ssdnorm import ssd300_vgg16
from ssdnorm.detector import make_detector
from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.class_names import VOC_CLASSES, coco_classes, default_class_names, select_classes


@pytest.fixture
def checkpoint():
    model = ssd300_vgg16(81, width=0.02)
    names = list(coco_classes())
    thresholds = dict.fromkeys(names, 0.5)
    return Checkpoint(model.arguments, model.state_dict(), names, antialias=False, thresholds=thresholds)


def test_all_of_vocs_classes_are_in_coco(checkpoint):
    chosen = select_classes(checkpoint, VOC_CLASSES)
    assert chosen.class_names == list(VOC_CLASSES)
    assert chosen.antialias is False
    assert chosen.thresholds is None, "scores rise"
    x = torch.rand(1, 3, 300, 300)
    with torch.no_grad():
        before, after = make_detector(checkpoint).model(x), make_detector(chosen).model(x)
    coco_of_voc = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
                   "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}  # fmt: skip
    rows = [0] + [1 + coco_classes().index(coco_of_voc.get(name, name)) for name in VOC_CLASSES]
    assert torch.equal(after.locs, before.locs)
    torch.testing.assert_close(after.logits, before.logits[..., rows])


def test_the_order_is_the_one_asked_for(checkpoint):
    chosen = select_classes(checkpoint, ["tvmonitor", "person"])
    weight = checkpoint.state["head.logits.fc7.weight"].view(6, 81, -1)
    tv = 1 + coco_classes().index("tv")
    assert torch.equal(chosen.state["head.logits.fc7.weight"].view(6, 3, -1), weight[:, [0, tv, 1]])
    assert chosen.model["num_classes"] == 3


def test_unknown_and_repeated_names_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"no class 'giraff'; choose from: person, .*Did you mean 'giraffe'\?"):
        select_classes(checkpoint, ["giraff"])
    with pytest.raises(ValueError, match="each once; got sofa, couch"):
        select_classes(checkpoint, ["sofa", "couch"])
    with pytest.raises(ValueError, match="one or more names"):
        select_classes(checkpoint, [])


def test_names_come_from_the_number_of_classes():
    assert default_class_names(20)[14] == "person"
    assert len(default_class_names(80)) == 80
    assert "N/A" not in default_class_names(80)
    assert default_class_names(90)[11] == "N/A"
    assert default_class_names(2) == ["class 1", "class 2"]
