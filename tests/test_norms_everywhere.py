"""Every norm in all slots of SSD300 trains and evaluates; every (norm, place) pair is honoured."""

import pytest
import torch
from torch import nn

from ssdnorm import NORMS, MultiboxLoss, ssd300_vgg16
from ssdnorm.layers import norm_parameters

TAPS = ("conv4_3", "fc7", "conv8_2", "conv9_2", "conv10_2", "conv11_2")
PLACES = {"backbone": 15, "extras": 8, **dict.fromkeys(TAPS, 1)}  # slots per place
SPECS = {
    **{name: name for name in NORMS},
    "group_norm": {"kind": "group_norm", "groups": 2},  # 32 do not divide 8 channels
    "timm": "timm.layers:LayerNorm2d",
}
NOTHING_LEARNT = ("none", "frozen_batch_norm")
FIRST_MAPS = [tap for tap in TAPS if tap != "conv11_2"]  # instance norm has no variance on the last, 1×1 map
every_norm = pytest.mark.parametrize("norm", SPECS)


def build(norm, places=tuple(PLACES), **options):
    if norm == "timm":
        pytest.importorskip("timm")
    spec = SPECS[norm]
    slots = {name: spec if name in places else "none" for name in ("backbone", "extras")}
    return ssd300_vgg16(
        3,
        **{"width": 0.02, "dropout": 0, **options},
        backbone_norm=slots["backbone"],
        extras_norm=slots["extras"],
        tap_norms={tap: spec for tap in TAPS if tap in places},
    )


def build_all(norm, **options):
    """All 29 slots filled; instance norm only where the map is larger than 1×1."""
    return build(norm, ("backbone", *FIRST_MAPS) if norm == "instance_norm" else tuple(PLACES), **options)


def slots_of(model):
    """The norm slot of every layer and tap, by place."""
    by_place = {tap: [slot] for tap, slot in model.features.tap_norms.items()}
    for room in ("backbone", "extras"):
        by_place[room] = [block.norm for block in getattr(model.features, room).children()]
    return by_place


def images(n=2):
    return torch.rand(n, 3, 300, 300, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def plain():
    """The logits of three images without norms."""
    with torch.no_grad():
        return build_all("none").eval()(images(3)).logits


def backward(model, output):
    sides = torch.tensor([0.1, 0.25, 0.4, 0.55, 0.7, 0.9])  # one object per tap
    boxes = torch.stack((0.5 - sides / 2, 0.5 - sides / 2, 0.5 + sides / 2, 0.5 + sides / 2), dim=1).repeat(2, 1, 1)
    parts = MultiboxLoss(model.default_boxes)(output, boxes, torch.tensor([[1, 2, 1, 2, 1, 2], [2, 1, 2, 1, 2, 1]]))
    torch.stack(list(parts.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("norm", ["batch_norm", "group_norm"])
def test_a_norm_is_built_where_it_was_asked_for_and_nowhere_else(norm, place):
    with torch.device("meta"):
        slots = slots_of(build(norm, (place,)))
    inside = slots.pop(place)
    assert len(inside) == PLACES[place]
    assert {type(slot) for slot in inside} == {type(inside[0])}
    assert not isinstance(inside[0], nn.Identity)
    assert all(isinstance(slot, nn.Identity) for others in slots.values() for slot in others)


@every_norm
def test_training_is_finite_and_gives_every_parameter_of_every_norm_a_gradient(norm):
    model = build_all(norm)
    names = norm_parameters(model)
    slots = [slot for slots in slots_of(model).values() for slot in slots]
    assert len(names) == sum(len(list(slot.parameters())) for slot in slots)
    assert (not names) == (norm in NOTHING_LEARNT)
    output = model(images())
    assert all(x.isfinite().all() for x in output)
    backward(model, output)
    for name in names:
        assert model.get_parameter(name).grad.any(), name


@every_norm
def test_an_image_is_evaluated_alone_as_in_a_batch_and_the_norm_changes_the_output(norm, plain):
    model = build_all(norm)
    with torch.no_grad():
        model(images())  # moves running statistics
        model.eval()
        together = model(images(3))
        alone = [model(image[None]) for image in images(3)]
    # other batch sizes use other convolution kernels, so the sums round differently
    torch.testing.assert_close(torch.cat([o.logits for o in alone]), together.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.cat([o.locs for o in alone]), together.locs, rtol=1e-3, atol=1e-3)
    changed = (together.logits - plain).abs().max().item()
    assert (changed > 1e-4) == (norm not in NOTHING_LEARNT)  # a new frozen batch norm is the identity


@every_norm
def test_trains_under_bfloat16_autocast(norm):
    model = build_all(norm)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images())
    backward(model, output)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch_norm", "l2_norm"])
def test_the_network_compiles_without_a_graph_break(norm):
    torch.compiler.reset()
    model = build_all(norm)
    with torch.no_grad():
        expected = build_all(norm)(images())
    output = torch.compile(model, fullgraph=True, backend="aot_eager")(images())
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-3, atol=1e-3)
    backward(model, output)
