"""Every norm at every place of SSD300, through everything that a model meets; nothing may be accepted and ignored."""

import io

import pytest
import torch
from torch import nn

from ssdnorm import NORMS, MultiboxLoss, ssd300_vgg16
from ssdnorm.layers import check_batch_statistics, norm_parameters

TAPS = ("conv4_3", "fc7", "conv8_2", "conv9_2", "conv10_2", "conv11_2")
PLACES = ("backbone", "extras", *TAPS, "all six taps")
SPECS = {
    **{name: name for name in NORMS},
    "group_norm": {"kind": "group_norm", "groups": 4},  # 32 do not divide 8 channels
    "timm": "timm.layers:LayerNorm2d",
}
LAST_MAP = ("extras", "conv11_2", "all six taps")  # places that see the 1×1 map
NOTHING_LEARNT = ("none", "frozen_batch_norm")
WALK = [(norm, place) for norm in SPECS for place in PLACES if not (norm == "instance_norm" and place in LAST_MAP)]
ALL_TAPS = [(norm, "all six taps") for norm in SPECS]
TWO = [("batch_norm", "extras"), ("l2_norm", "fc7")]


def walk(*first):
    """The whole walk; what is not among the first takes ``-m slow``."""
    rows = [pytest.param(*pair, marks=() if pair in first else pytest.mark.slow) for pair in WALK]
    return pytest.mark.parametrize(("norm", "place"), rows)


def build(norm, place):
    spec = SPECS[norm]
    if norm == "timm":
        pytest.importorskip("timm")
    taps = TAPS if place == "all six taps" else (place,) if place in TAPS else ()
    return ssd300_vgg16(
        3,
        width=0.02,
        dropout=0,
        backbone_norm=spec if place == "backbone" else "none",
        extras_norm=spec if place == "extras" else "none",
        tap_norms=dict.fromkeys(taps, spec),
    )


def slots(model, place):
    """The norm slots of a place, and all others."""
    all_slots = {f"taps.{name}": slot for name, slot in model.features.tap_norms.items()}
    for room in ("backbone", "extras"):
        blocks = getattr(model.features, room).named_children()
        all_slots |= {f"{room}.{name}": block.norm for name, block in blocks}
    chosen = {"all six taps": "taps.", **{tap: f"taps.{tap}" for tap in TAPS}}.get(place, f"{place}.")
    inside = {name for name in all_slots if name.startswith(chosen)}
    return [all_slots[n] for n in inside], [slot for n, slot in all_slots.items() if n not in inside]


def images(n=2):
    return torch.rand(n, 3, 300, 300, generator=torch.Generator().manual_seed(1))


def backward(model, output):
    sides = torch.tensor([0.1, 0.25, 0.4, 0.55, 0.7, 0.9])  # one object for each tap
    boxes = torch.stack((0.5 - sides / 2, 0.5 - sides / 2, 0.5 + sides / 2, 0.5 + sides / 2), dim=1).repeat(2, 1, 1)
    parts = MultiboxLoss(model.default_boxes)(output, boxes, torch.tensor([[1, 2, 1, 2, 1, 2], [2, 1, 2, 1, 2, 1]]))
    torch.stack(list(parts.values())).sum().backward()


def assert_every_parameter_has_a_gradient(model):
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for name in norm_parameters(model):
        assert model.get_parameter(name).grad.any(), name


@walk(*ALL_TAPS, *TWO)
def test_a_norm_is_where_it_was_asked_for_and_learns(norm, place):
    model = build(norm, place)
    inside, outside = slots(model, place)
    assert len(inside) == {"backbone": 15, "extras": 8, "all six taps": 6}.get(place, 1)
    assert len(inside) + len(outside) == 29
    assert all(isinstance(slot, nn.Identity) for slot in outside)
    assert all(isinstance(slot, nn.Identity) == (norm == "none") for slot in inside)
    assert len({type(slot) for slot in inside}) == 1
    expected = 0 if norm in NOTHING_LEARNT else len(inside) * len(list(inside[0].parameters()))
    assert len(norm_parameters(model)) == expected
    assert (expected > 0) == (norm not in NOTHING_LEARNT)

    plain = build("none", place)
    with torch.no_grad():
        changed = (model(images()).logits - plain(images()).logits).abs().max().item()
    assert (changed > 1e-4) == (norm not in NOTHING_LEARNT)  # frozen batch norm starts as the identity

    before = {name: model.get_parameter(name).detach().clone() for name in norm_parameters(model)}
    backward(model, model(images()))
    assert_every_parameter_has_a_gradient(model)
    torch.optim.SGD(model.parameters(), lr=1.0).step()  # conv11_1 gets little: a small step is lost in rounding
    for name, value in before.items():
        assert not torch.equal(model.get_parameter(name), value), name


@walk(*TWO)
def test_evaluation_is_finite_and_its_own_after_a_state_dict_round_trip(norm, place):
    model = build(norm, place)
    with torch.no_grad():
        for i, parameter in enumerate(norm_parameters(model)):
            model.get_parameter(parameter).add_(0.1 * (i + 1))
        if norm != "none":
            model(images())  # moves running statistics
        expected = model.eval()(images())
        loaded = build(norm, place)
        loaded.load_state_dict(model.state_dict())
        output = loaded.eval()(images())
    assert all(x.isfinite().all() for x in output)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.locs, expected.locs)


@walk()
def test_trains_and_evaluates_under_bfloat16_autocast(norm, place):
    model = build(norm, place)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images())
    backward(model, output)
    assert_every_parameter_has_a_gradient(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(images()).logits.isfinite().all()


@pytest.mark.parametrize(
    ("norm", "place"),
    [
        pytest.param(*p, marks=() if p == ("batch_norm", "extras") else pytest.mark.slow)
        for p in WALK
        if p[1] not in TAPS
    ],
)
def test_an_image_is_evaluated_alone_as_in_a_batch_of_eight(norm, place):
    model = build(norm, place)
    with torch.no_grad():
        model(images())
        model.eval()
        together = model(images(8))
        alone = [model(image[None]) for image in images(8)]
    # other batch sizes take other convolution kernels, so the sums round differently
    torch.testing.assert_close(torch.cat([o.logits for o in alone]), together.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([o.locs for o in alone]), together.locs, rtol=1e-4, atol=1e-4)


@walk(("l2_norm", "conv4_3"))
def test_compiles_whole_for_training(norm, place):
    torch.compiler.reset()
    model = build(norm, place)
    with torch.no_grad():
        expected = build(norm, place)(images())
    output = torch.compile(model, fullgraph=True, backend="aot_eager")(images())
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-3, atol=1e-3)
    backward(model, output)
    assert_every_parameter_has_a_gradient(model)


@pytest.mark.filterwarnings("ignore")
@walk()
def test_the_onnx_file_of_the_model_gives_the_same(norm, place):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = build(norm, place).eval()
    buffer = io.BytesIO()
    torch.onnx.export(model, (images(1),), buffer, dynamo=True, verbose=False)
    session = runtime.InferenceSession(buffer.getvalue())
    locs, logits = session.run(None, {session.get_inputs()[0].name: images(1).numpy()})
    with torch.no_grad():
        expected = model(images(1))
    torch.testing.assert_close(torch.from_numpy(logits), expected.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.from_numpy(locs), expected.locs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("place", LAST_MAP)
def test_instance_norm_on_the_last_map_is_refused_with_a_reason(place):
    with pytest.raises(ValueError, match=r"conv11_2.*InstanceNorm would take statistics over 1 value .* Ways out"):
        check_batch_statistics(build("instance_norm", place), (2, 3, 300, 300))
