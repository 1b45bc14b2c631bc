"""Parameter groups and the learning-rate schedule."""

import pytest
import torch
from torch import nn

from ssdnorm import ssd300_vgg16
from ssdnorm.engine.optimizer import GroupRule, describe_groups, groups_table, lr_schedule, make_optimizer
from ssdnorm.layers import norm_parameters


def make(model: nn.Module, **changes):
    options = {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "norm_names": norm_parameters(model),
        "norms": GroupRule(0.5, 0.01),
        "biases": GroupRule(2.0, 0.0),
    }
    return make_optimizer(model, **{**options, **changes})


def test_each_parameter_is_in_the_group_of_its_kind():
    model = ssd300_vgg16(4, width=0.02, backbone_norm="batch_norm")
    model.features.backbone.conv1_1.requires_grad_(False)
    groups = {group["name"]: {id(p) for p in group["params"]} for group in make(model).param_groups}
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, parameter in trained:
        expected = "norms" if "norm" in name else "biases" if name.endswith("bias") else "weights"
        assert id(parameter) in groups[expected], name
    assert sum(len(group) for group in groups.values()) == len(trained) == len(list(model.parameters())) - 4


def test_the_scale_of_l2norm_is_a_norm_and_a_frozen_one_is_in_no_group():
    learnable = make(ssd300_vgg16(4, width=0.02))
    fixed = make(ssd300_vgg16(4, width=0.02, tap_norms={"conv4_3": {"kind": "l2_norm", "learnable": False}}))
    assert [group["name"] for group in learnable.param_groups] == ["weights", "norms", "biases"]
    assert [group["name"] for group in fixed.param_groups] == ["weights", "biases"]


def test_groups_have_their_own_rate_and_decay():
    rows = {row["group"]: row for row in describe_groups(make(ssd300_vgg16(4, width=0.02)))}
    assert (rows["weights"]["lr"], rows["weights"]["weight_decay"]) == (0.1, 5e-4)
    assert (rows["norms"]["lr"], rows["norms"]["weight_decay"]) == (0.05, 0.01)
    assert (rows["biases"]["lr"], rows["biases"]["weight_decay"]) == (0.2, 0.0)
    assert "biases" in groups_table(list(rows.values()))


def test_the_rate_rises_then_holds_then_drops():
    factor = lr_schedule(warmup_steps=10, warmup_factor=0.1, lr_drops=[20, 30], lr_drop_factor=0.1)
    assert [factor(s) for s in (0, 5, 10, 19, 20, 29, 30)] == pytest.approx([0.1, 0.55, 1, 1, 0.1, 0.1, 0.01])
    assert lr_schedule(warmup_steps=0, warmup_factor=0.1, lr_drops=[], lr_drop_factor=0.1)(0) == 1.0


def test_one_step_moves_each_group_by_its_own_rule():
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    optimizer = make(model, norm_names=set(), momentum=0.0)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(1.0)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    assert model[0].weight.item() == pytest.approx(1 - 0.1 * (0.3 + 5e-4))
    assert model[0].bias.item() == pytest.approx(1 - 0.2 * 0.3)


def test_adamw_has_the_groups_of_sgd_and_takes_the_momentum_as_its_first_beta():
    model = ssd300_vgg16(4, width=0.02)
    optimizer = make(model, name="adamw", momentum=0.8)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.999)
    assert describe_groups(optimizer) == describe_groups(make(model))


def test_the_cosine_follows_the_warmup_and_ends_at_0():
    factor = lr_schedule(warmup_steps=10, warmup_factor=0.1, cosine_until=110)
    assert [factor(s) for s in (0, 5, 10, 35, 60, 85, 110)] == pytest.approx(
        [0.1, 0.55, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]
    )
