"""Latency: that of folded detectors in turns."""

import torch
from torch import nn

from ssdnorm import ssd300_vgg16
from ssdnorm.compare import costs
from ssdnorm.compare.costs import measure_latencies
from ssdnorm.models.checkpoint import save_checkpoint


def test_latency_is_that_of_folded_detectors_which_take_turns(tmp_path, monkeypatch):
    turns, load = [], costs.load_detector

    def spy(path, **options):
        detector = load(path, **options)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())
        detector.register_forward_hook(lambda *_: turns.append(path.stem))
        return detector

    monkeypatch.setattr(costs, "load_detector", spy)
    paths = {}
    for name, norm in {"plain": "none", "normed": "batch_norm"}.items():
        paths[name] = tmp_path / f"{name}.safetensors"
        model = ssd300_vgg16(3, width=0.02, backbone_norm=norm)
        save_checkpoint(paths[name], model, class_names=["a", "b"], post_process={})
    latencies = measure_latencies(paths, torch.zeros(3, 50, 70, dtype=torch.uint8))
    assert latencies.keys() == paths.keys()
    assert all(0 < latency < 1e4 for latency in latencies.values())
    assert turns[:4] == ["plain", "normed"] * 2
    assert len(turns) >= 20
