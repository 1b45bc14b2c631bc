"""A detector loaded with its batch norms folded detects the same, with fewer layers, and is not saved."""

import pytest
import torch
from torch import nn

from ssdnorm import load_detector, ssd300_vgg16
from ssdnorm.models.checkpoint import save_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    norms = {"backbone_norm": "batch_norm", "extras_norm": "frozen_batch_norm", "tap_norms": {"conv4_3": "batch_norm"}}
    model = ssd300_vgg16(4, width=0.02, **norms)
    for _ in range(3):
        model(torch.rand(2, 3, 300, 300))
    save_checkpoint(tmp_path / "model.safetensors", model, class_names=["a", "b", "c"], post_process={})
    return tmp_path / "model.safetensors"


def test_folded_and_plain_detectors_give_the_same(checkpoint):
    plain, folded = load_detector(checkpoint), load_detector(checkpoint, fold=True)
    images = torch.rand(2, 3, 300, 300)
    with torch.no_grad():
        for a, b in zip(plain.model(images), folded.model(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(folded([torch.rand(3, 50, 60)])[0]["scores"]) > 0
    left = [name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == ["model.features.tap_norms.conv4_3"]  # conv4_3 also feeds conv5_1, so this one stays
    assert sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules()) == 16
    assert not folded.training


def test_a_folded_model_is_not_saved_as_one_that_it_is_not(checkpoint, tmp_path):
    folded = load_detector(checkpoint, fold=True)
    with pytest.raises(ValueError, match=r"save_checkpoint: only a model of ssd300_vgg16"):
        save_checkpoint(tmp_path / "x.safetensors", folded.model, class_names=["a", "b", "c"], post_process={})
