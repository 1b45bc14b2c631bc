"""Monte-Carlo dropout: collapses to the detector at one pass without chance, differs with it, and says how far."""

from contextlib import nullcontext

import pytest
import torch

from ssdnorm import Detector, PostProcess, ssd300_vgg16
from ssdnorm.models import mc_dropout


def mc_dropout_detections(detector, images, num_samples=10):
    batch, sizes = detector.prepare(images)
    return mc_dropout.mc_dropout_detections(detector.model, detector.post_process, batch, sizes, num_samples)


def make(dropout=0.5):
    model = ssd300_vgg16(4, width=0.02, dropout=dropout, tap_norms={})
    for p in model.head.parameters():
        torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(0))
    return Detector(model, None, PostProcess(model.default_boxes, max_detections=200)).eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 100, 120, generator=generator), torch.rand(3, 60, 50, generator=generator)]


def test_without_chance_it_is_the_detector_and_nothing_disagrees(images, monkeypatch):
    detector = make()
    monkeypatch.setattr(mc_dropout, "enable_dropout", lambda model: nullcontext())
    with torch.no_grad():
        expected = detector(images)
    for got, one in zip(mc_dropout_detections(detector, images, 3), expected, strict=True):
        torch.testing.assert_close(got["scores"], one["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got["boxes"], one["boxes"], rtol=1e-4, atol=1e-3)
        assert got["score_std"].abs().max() < 1e-6


def test_samples_disagree_repeatably_and_one_sample_has_no_spread(images):
    detector = make()
    torch.manual_seed(0)
    first = mc_dropout_detections(detector, images, 4)
    torch.manual_seed(0)
    again = mc_dropout_detections(detector, images, 4)
    other = mc_dropout_detections(detector, images, 4)
    assert torch.equal(first[0]["scores"], again[0]["scores"])
    assert not torch.equal(first[0]["scores"], other[0]["scores"])
    assert (first[0]["score_std"] > 0).any()
    assert (first[0]["score_std"] <= 0.5).all()
    assert mc_dropout_detections(detector, images, 1)[0]["score_std"].max() == 0
    assert not any(m.training for m in detector.modules())


def test_the_spread_is_that_of_the_default_box_with_the_score():
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1], [0.3, 0.6, 0.1]])
    spread = torch.arange(9.0).reshape(3, 3)
    found = {"boxes": torch.zeros(2, 4), "scores": torch.tensor([0.7, 0.4]), "labels": torch.tensor([2, 1])}
    assert mc_dropout._spread_of(found, probabilities, spread).tolist() == [2.0, 4.0]


def test_no_sample_and_no_dropout_are_refused(images):
    with pytest.raises(ValueError, match=r"num_samples must be 1 or more; got 0"):
        mc_dropout_detections(make(), images, 0)
    with pytest.raises(ValueError, match=r"the model has no dropout above 0"):
        mc_dropout_detections(make(dropout=0), images)
