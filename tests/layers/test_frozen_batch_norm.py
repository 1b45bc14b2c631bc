"""Frozen batch norm: the identity at the start, batch norm in eval mode afterwards, whatever mode is set."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet18
from torchvision.ops import FrozenBatchNorm2d

from ssdnorm.layers import FrozenBatchNorm, SyncBatchNorm, freeze_batch_norm


def trained_batch_norm(kind=nn.BatchNorm2d, **options):
    norm = kind(6, **options).eval()
    with torch.no_grad():
        for i, tensor in enumerate(t for t in norm.state_dict().values() if t.is_floating_point()):
            tensor.copy_(torch.linspace(0.5, 2.0, 6).roll(i))
    return norm


@given(eps=st.floats(1e-12, 0.1), dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_a_new_layer_is_the_identity_bit_by_bit(eps, dtype):
    x = torch.randn(2, 6, 3, 3).to(dtype)
    assert torch.equal(FrozenBatchNorm(6, eps=eps)(x), x)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, FrozenBatchNorm2d])
def test_equals_batch_norm_in_eval_mode_even_in_train_mode(kind):
    norm = trained_batch_norm(kind, eps=1e-3)
    x = torch.randn(2, 6, 3, 3)
    frozen = FrozenBatchNorm.from_batch_norm(norm).train()
    torch.testing.assert_close(frozen(x), norm(x))
    assert list(frozen.parameters()) == []


def test_state_dicts_go_both_ways():
    norm, frozen = trained_batch_norm(), FrozenBatchNorm(6)
    frozen.load_state_dict(norm.state_dict())
    back = nn.BatchNorm2d(6)
    back.load_state_dict(frozen.state_dict())
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(frozen(x), norm(x))
    torch.testing.assert_close(back.eval()(x), norm(x))


def test_freezing_survives_train_and_a_training_step():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), trained_batch_norm(), nn.ReLU())
    x = torch.randn(2, 3, 5, 5)
    expected = model.eval()(x)
    before = model.state_dict()["1.running_mean"].clone()
    assert freeze_batch_norm(model) is model
    model.train()
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert torch.equal(model[1].running_mean, before)
    assert {name for name, _ in model.named_parameters()} == {"0.weight", "0.bias"}


def test_freezes_a_whole_model_of_torchvision():
    model = resnet18(num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    freeze_batch_norm(model).train()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_a_shared_layer_stays_shared():
    norm = trained_batch_norm()
    model = freeze_batch_norm(nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)}))
    assert model["a"] is model["b"][0]
    assert isinstance(freeze_batch_norm(norm), FrozenBatchNorm)


def test_what_cannot_be_frozen_is_refused():
    with pytest.raises(ValueError, match="has no running statistics to freeze"):
        freeze_batch_norm(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))
    with pytest.raises(ValueError, match="expected a batch norm; got GroupNorm"):
        FrozenBatchNorm.from_batch_norm(nn.GroupNorm(1, 3))


def test_a_batch_norm_that_does_more_is_refused_by_name():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Sequential(layers.BatchNormAct2d(3)))
    with pytest.raises(ValueError, match=r"0\.0 is a BatchNormAct2d, which does more than a batch norm"):
        freeze_batch_norm(model)
