"""Costs: operations against a sum over the convolutions, latency of folded detectors in turns."""

import pytest
import torch
from torch import nn

from ssdnorm import ssd300_vgg16
from ssdnorm.compare import costs
from ssdnorm.compare.costs import gflops, measure_latencies
from ssdnorm.models.checkpoint import save_checkpoint

from .synthetic import make_plan
from .test_plan import CONTENT, plan_of


def test_the_operations_are_those_of_the_convolutions(tmp_path):
    arm = next(arm for arm in plan_of(tmp_path, CONTENT).arms if arm.name == "batch_norm")
    total = 0

    def count(conv, args, output):
        nonlocal total
        inputs_a_value = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        total += 2 * inputs_a_value * output[0].numel()

    model = ssd300_vgg16(6, width=0.02).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    model(torch.zeros(1, 3, 300, 300))
    assert gflops(arm, 6) == pytest.approx(total / 1e9, rel=1e-6)


def test_the_full_network_has_the_published_operations():
    assert gflops(make_plan().arms[0], 21) == pytest.approx(62.75, abs=0.05)


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
