"""A checkpoint runs no code and opens no file: its metadata follow a schema, and a foreign class must be named."""

from dataclasses import replace

import pytest

from ssdnorm import load_detector, ssd300_vgg16
from ssdnorm.models.checkpoint import Checkpoint, write_checkpoint

CUSTOM = "torch.nn:BatchNorm2d"


def checkpoint(**norms):
    model = ssd300_vgg16(3, width=0.02, **norms)
    return Checkpoint(dict(model.arguments), model.state_dict(), ["cat", "dog"])


def write(tmp_path, content, **changes):
    changed = replace(content, model={**content.model, **changes.pop("model", {})}, **changes)
    write_checkpoint(tmp_path / "m.safetensors", changed)
    return tmp_path / "m.safetensors"


def test_a_class_that_a_checkpoint_names_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "spy_norm.py").write_text("from pathlib import Path\nPath(__file__).with_name('was here').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path, checkpoint(), model={"extras_norm": {"kind": "spy_norm:Norm", "eps": 1}})
    for others in ((), {CUSTOM}):
        with pytest.raises(ValueError, match=r"m.safetensors: names the norm 'spy_norm:Norm', whose code would run.*"
                           r"custom_norms=\{'spy_norm:Norm'\}\), or --allow-norm spy_norm:Norm"):  # fmt: skip
            load_detector(path, custom_norms=others)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("where", ["backbone_norm", "extras_norm", "tap_norms"])
def test_a_class_is_allowed_by_its_name(tmp_path, where):
    content = checkpoint(**{where: {"fc7": CUSTOM} if where == "tap_norms" else CUSTOM})
    assert content.custom_norms == {CUSTOM}
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match="whose code would run"):
        load_detector(path)
    assert load_detector(path, custom_norms={CUSTOM}).class_names == ("cat", "dog")
    assert load_detector(path, custom_norms=CUSTOM).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"weights": "/etc/passwd"}}, r"model\.weights: unknown key; choose one of: backbone_norm, "),
        ({"model": {"seed": 1}}, r"model\.seed: unknown key"),
        ({"model": {"name": "eval"}}, r"model\.name: must be 'ssd300_vgg16'"),
        ({"model": {"image_size": 300}}, r"model: image_size: belongs to ssd_vgg16, which needs one; got 300"),
        ({"model": {"num_classes": 10**7}}, r"model\.num_classes: must be less than or equal to 1000000; got 10000000"),
        ({"model": {"width": 1e300}}, r"model\.width: must be less than or equal to 16; got 1e\+300"),
        ({"model": {"dropout": "no"}}, r"model\.dropout: must be a valid number or a mapping; got 'no'"),
        (
            {"model": {"backbone_norm": "batchnorm"}},
            r"model\.backbone_norm: unknown norm 'batchnorm'; .*Did you mean 'batch_",
        ),
        ({"model": {"default_boxes": None}}, r"model\.default_boxes: must be a valid string or a mapping.*; got null"),
        ({"class_names": ["cat", ["dog"]]}, r"class_names\.1: must be a valid string; got \['dog'\]"),
        ({"class_names": ["cat", "do\ng"]}, r"class_names\.1: .*; got 'do\\ng'"),
        (
            {"thresholds": {"cat": 0.5}},
            r"thresholds: must have the name of every class and no .* got \['cat'\] for \['cat', 'dog'\]",
        ),
        ({"thresholds": {"cat": 0.5, "cow": 0.5}}, r"thresholds: .*; got \['cat', 'cow'\]"),
        ({"class_names": ["cat"]}, r"1 class names for 2 classes \(background has none\)"),
        ({"post_process": {"top_k": 0}}, r"post_process\.top_k: must be greater than or equal to 1; got 0"),
        ({"antialias": "no"}, r"antialias: must be a valid boolean; got 'no'"),
    ],
)
def test_metadata_that_this_library_does_not_write_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"m\.safetensors: metadata: {message}"):
        load_detector(write(tmp_path, checkpoint(), **changes))


def test_a_network_larger_than_the_file_is_refused_before_it_takes_memory(tmp_path):
    path = write(tmp_path, checkpoint(), model={"width": 16.0})
    with pytest.raises(ValueError, match=r"m\.safetensors: tensors: does not fit the model; wrongly .*set width"):
        load_detector(path)
    path = write(tmp_path, checkpoint(), model={"num_classes": 10**6}, class_names=["x"] * (10**6 - 1))
    with pytest.raises(ValueError, match=r"3 classes in the file, 1000000 in the model"):
        load_detector(path)


def test_numbers_of_another_type_are_refused(tmp_path):
    content = checkpoint()
    name = "features.backbone.conv1_1.conv.weight"
    path = write(tmp_path, replace(content, state={**content.state, name: content.state[name].int()}))
    with pytest.raises(ValueError, match=rf"m\.safetensors: '{name}': expected floating-point numbers; got int32"):
        load_detector(path)
