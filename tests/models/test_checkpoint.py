"""Our checkpoints: what is written is read, and every misfit is listed with its reason."""

import pytest
import torch
from safetensors.torch import save_file

from ssdnorm import DEFAULT_BOXES, load_detector, ssd300_vgg16, ssd512_vgg16
from ssdnorm.models.checkpoint import read_checkpoint, save_checkpoint
from ssdnorm.models.tensor_files import check_shapes, shapes_of


def small(num_classes=4, *, width=0.02, **options):
    return ssd300_vgg16(num_classes, width=width, **options)


@pytest.mark.parametrize("default_boxes", ["ssd300_coco", DEFAULT_BOXES["ssd300_voc"]])
def test_a_detector_comes_back_as_it_was(tmp_path, default_boxes):
    model = small(default_boxes=default_boxes, backbone_norm={"kind": "group_norm", "groups": 4}).eval()
    model.image_mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    settings = {"score_threshold": 0.2, "nms_threshold": 0.5, "top_k": 7, "max_detections": 3}
    save_checkpoint(tmp_path / "m.safetensors", model, class_names=["a", "b", "c"], post_process=settings)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"], "nothing unfinished"
    detector = load_detector(tmp_path / "m.safetensors")
    x = torch.rand(1, 3, 300, 300)
    model.to(memory_format=torch.channels_last)  # as the detector is: other kernels round in another way
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(detector.model(x), model(x), strict=True))
    assert torch.equal(detector.model.default_boxes, model.default_boxes)
    assert detector.class_names == ("a", "b", "c")
    assert {name: getattr(detector.post_process, name) for name in settings} == settings
    assert detector.antialias is True
    assert not detector.training


@pytest.mark.parametrize(
    ("file", "model", "message"),
    [
        (
            lambda: small(),
            lambda: small(21),
            r"f: does not fit the model; wrongly shaped \(12\): head.logits.conv4_3.weight \(16, 8, 3, 3\) in the "
            r"file, \(84, .* and 8 more. Likely: 4 classes in the file, 21 in the model: pass num_classes=4 or head",
        ),
        (lambda: small(), lambda: small(width=0.3), "8 channels at conv1_1 in the file, 16 in the model: set width"),
        (
            lambda: ssd512_vgg16(4, width=0.02),
            lambda: small(),
            r"unexpected \(8\): features.extras.conv12_1.*an SSD512 in the file, an SSD300 in the model",
        ),
        (
            lambda: small(tap_norms={}),
            lambda: small(),
            r"missing \(1\): features.tap_norms.conv4_3.weight. Likely: file and model have different norms",
        ),
    ],
)
def test_misfits_are_listed_with_their_likely_reason(file, model, message):
    with pytest.raises(ValueError, match=message):
        check_shapes(shapes_of(model().state_dict()), shapes_of(file().state_dict()), where="f")


def test_weights_that_share_memory_are_written_as_two(tmp_path):
    model = small(backbone_norm="batch_norm", tap_norms={})
    first, second = model.features.backbone.conv1_1.norm, model.features.backbone.conv1_2.norm
    second.weight.data = first.weight.data  # tied, as in some checkpoints of others
    save_checkpoint(tmp_path / "m.safetensors", model, class_names=["a", "b", "c"], post_process={})
    state = read_checkpoint(tmp_path / "m.safetensors").state
    names = [name for name in state if name.endswith(("conv1_1.norm.weight", "conv1_2.norm.weight"))]
    assert len(names) == 2
    assert all(torch.equal(state[name], first.weight) for name in names)


def test_a_model_put_together_by_hand_cannot_be_saved(tmp_path):
    model = small()
    model.arguments = None
    with pytest.raises(ValueError, match="only a model of ssd300_vgg16, ssd512_vgg16 or ssd_vgg16"):
        save_checkpoint(tmp_path / "m.safetensors", model, class_names=["a", "b", "c"], post_process={})


def test_other_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such"):
        load_detector(tmp_path / "m.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m.safetensors: no SSD-VGG16 of a known system"):
        load_detector(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m.safetensors: not a checkpoint of ssdnorm \(format None"):
        read_checkpoint(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"m.safetensors: not a readable safetensors file, or cut off"):
        load_detector(tmp_path / "m.safetensors")
