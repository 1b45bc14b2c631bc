"""Every name of NORMS through everything a norm meets, and every mistake in a spec with its message."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from ssdnorm.layers import (
    NORMS,
    ConvBlock,
    FrozenBatchNorm,
    InstanceNorm,
    norm_layer,
    norm_parameters,
)
from ssdnorm.layers.channel_norms import ChannelLayerNorm, ChannelRMSNorm
from ssdnorm.norm_specs import NORM_OPTIONS
from tests.layers.distinct import with_distinct_values

C = 8
SPECS = {"group_norm": {"kind": "group_norm", "groups": 4}}  # 32 do not divide 8
every_norm = pytest.mark.parametrize("name", NORMS)


def make_norm(name, channels=C):
    """The norm with parameters and statistics that differ from channel to channel."""
    return with_distinct_values(norm_layer(SPECS.get(name, name))(channels))


def make_block(name):
    return ConvBlock(3, C, 3, norm=lambda channels: make_norm(name, channels), padding=1)


def by_hand(name, norm, x, training):
    """The norm's definition with explicit axes, in float64."""
    x = x.double()
    channels = (1, -1, 1, 1)

    def standardise(values, axes, eps):
        var, mean = torch.var_mean(values, axes, correction=0, keepdim=True)
        return (values - mean) / (var + eps).sqrt()

    weight = getattr(norm, "weight", torch.ones(C)).double().reshape(channels)
    bias = norm.bias.double().reshape(channels) if getattr(norm, "bias", None) is not None else 0.0
    if name == "none":
        return x
    if name == "l2_norm":
        return weight * x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt()
    if name == "rms_norm":
        return weight * x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()
    if name == "layer_norm":
        return weight * standardise(x, 1, 1e-5) + bias
    if name == "instance_norm":
        return weight * standardise(x, (2, 3), 1e-5) + bias
    if name == "group_norm":
        grouped = x.reshape(x.shape[0], 4, -1, *x.shape[2:])
        return weight * standardise(grouped, (2, 3, 4), 1e-5).reshape(x.shape) + bias
    if training and name != "frozen_batch_norm":
        return weight * standardise(x, (0, 2, 3), 1e-5) + bias
    mean, var = (b.double().reshape(channels) for b in (norm.running_mean, norm.running_var))
    return weight * (x - mean) / (var + 1e-5).sqrt() + bias


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@every_norm
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_computes_its_definition_and_keeps_the_memory_format(name, training, memory_format):
    norm = make_norm(name).train(training)
    x = (3 * torch.randn(2, C, 4, 5) + torch.linspace(-2, 2, C).reshape(1, -1, 1, 1)).to(memory_format=memory_format)
    x[:, :2] *= 1e-3  # a group, and a position, where eps counts
    x[0, :, 1, 2] *= 1e-3
    expected = by_hand(name, copy.deepcopy(norm), x, training)
    y = norm(x)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    assert y.is_contiguous(memory_format=memory_format)


@every_norm
def test_state_dict_deepcopy_and_pickle_keep_the_numbers(name):
    block = make_block(name).eval()
    loaded = ConvBlock(3, C, 3, norm=norm_layer(SPECS.get(name, name)), padding=1)
    loaded.load_state_dict(block.state_dict())
    norm = pickle.loads(pickle.dumps(block.norm))
    x = torch.randn(2, 3, 6, 5)
    y = block(x)
    torch.testing.assert_close(loaded.eval()(x), y, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(block)(x), y, rtol=0, atol=0)
    torch.testing.assert_close(norm(block.conv(x)).relu(), y, rtol=0, atol=0)


@every_norm
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_whole_forwards_and_backwards(name, backend):
    block = make_block(name)
    torch.compiler.reset()  # one ConvBlock.forward may be compiled eight times
    x = torch.randn(2, 3, 6, 5)
    expected = copy.deepcopy(block)(x)
    y = torch.compile(block, fullgraph=True, backend=backend)(x)
    y.sum().backward()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


class EveryNorm(nn.Module):
    """A block for each name, side by side, whose convolutions are zero where the image is."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleDict({name: make_block(name) for name in NORMS})
        for block in self.blocks.values():
            nn.init.zeros_(block.conv.bias)

    def forward(self, x):
        return tuple(block(x) for block in self.blocks.values())


@pytest.mark.filterwarnings("ignore")
def test_the_onnx_file_gives_the_same_for_every_norm():
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = EveryNorm().eval()
    x = torch.randn(2, 3, 6, 5)
    x[1, :, 1:4, 0:2] = 0  # for L2Norm 0 / 0 at (2, 0) if an optimizer drops eps
    buffer = io.BytesIO()
    torch.onnx.export(model, (x,), buffer, dynamo=True, verbose=False)
    session = runtime.InferenceSession(buffer.getvalue())
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for name, y, expected in zip(NORMS, found, model(x), strict=True):
        torch.testing.assert_close(
            torch.from_numpy(y), expected.detach(), rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize(
    ("spec", "attributes"),
    [
        ({"kind": "l2_norm", "scale": 10, "eps": 1e-6}, {"scale": 10.0, "eps": 1e-6}),
        ({"kind": "batch_norm", "momentum": 0.03, "eps": 1e-3, "affine": False}, {"momentum": 0.03, "affine": False}),
        ({"kind": "batch_norm", "momentum": None}, {"momentum": None}),
        ({"kind": "sync_batch_norm", "momentum": 0.01}, {"momentum": 0.01}),
        ({"kind": "frozen_batch_norm", "eps": 1e-3}, {"eps": 1e-3}),
        ({"kind": "group_norm", "groups": 16, "eps": 1e-3}, {"num_groups": 16, "affine": True, "eps": 1e-3}),
        ({"kind": "group_norm", "affine": False}, {"num_groups": 32, "affine": False}),
        ({"kind": "layer_norm", "affine": False, "eps": 1e-6}, {"weight": None, "bias": None, "eps": 1e-6}),
        ({"kind": "rms_norm", "affine": False, "eps": 1e-6}, {"weight": None, "eps": 1e-6}),
        ({"kind": "instance_norm", "affine": False, "eps": 1e-3}, {"affine": False, "eps": 1e-3}),
        ({"kind": "torch.nn:BatchNorm2d", "momentum": 0.5}, {"momentum": 0.5}),
    ],
)
def test_every_option_reaches_the_norm(spec, attributes):
    assert NORMS.keys() == NORM_OPTIONS.keys()
    norm = norm_layer(spec)(64)
    assert {name: getattr(norm, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("batchnorm", r"norm\.extras: unknown norm 'batchnorm'; choose one of: batch_norm, frozen_batch_norm, "
         r"group_norm, instance_norm, l2_norm, layer_norm, none, rms_norm, sync_batch_norm, 'package\.module:Class'\. "
         r"Did you mean 'batch_norm'\?"),
        ("BN", r"unknown norm 'BN'; choose one of: "),
        (None, r"expected a norm name or a mapping with 'kind'; got None; .*Did you mean 'none'\?"),
        ({"groups": 4}, r"expected a norm name or a mapping with 'kind'; got \{'groups': 4\}"),
        ({"kind": "group_norm", "group": 4}, r"group_norm: unknown option 'group'; choose one of: affine, eps, "
         r"groups\. Did you mean 'groups'\?"),
        ({"kind": "none", "eps": 1.0}, r"none: unknown option 'eps'; it has no options"),
        ({"kind": "group_norm", "groups": 0}, r"norm\.extras: group_norm: groups: expected a whole number ≥ 1; got 0"),
        ({"kind": "group_norm", "groups": True}, r"expected a whole number ≥ 1; got True"),
        ({"kind": "l2_norm", "eps": 0}, r"norm\.extras: l2_norm: eps: expected a number > 0; got 0"),
        ({"kind": "l2_norm", "scale": float("nan")}, r"expected a number; got nan"),
        ({"kind": "l2_norm", "learnable": "no"}, r"expected true or false; got 'no'"),
        ({"kind": "batch_norm", "eps": "1e-5"}, r"expected a number > 0; got '1e-5' \(YAML reads 1e-5 as text"),
        ({"kind": "batch_norm", "momentum": 99.9}, r"expected a number in \(0, 1\], .*; got 99\.9"),
        ("torch.nn:BatchNorm", r"cannot import 'torch\.nn:BatchNorm' \(package\.module:Class\)"),
        ("no_such_package:Norm", r"cannot import 'no_such_package:Norm'"),
        ("torch:pi", r"'torch:pi' is not a class"),
        ({"kind": "torch.nn:BatchNorm2d", "epsilon": 1.0}, r"unknown option 'epsilon'; .* Did you mean 'eps'\?"),
    ],
)  # fmt: skip
def test_a_bad_spec_is_refused_with_its_place_and_the_choices(spec, message):
    with pytest.raises(ValueError, match=message):
        norm_layer(spec, where="norm.extras")


def test_groups_that_do_not_divide_the_channels_are_refused_by_name():
    message = (
        r"norm\.extras: group_norm for 84 channels: 32 groups do not divide 84 channels; choose groups from: 1, 2, 3, 4"
    )
    with pytest.raises(ValueError, match=message):
        norm_layer("group_norm", where="norm.extras")(84)


def test_a_spec_is_not_changed_and_later_changes_to_it_do_not_reach_the_factory():
    spec = {"kind": "group_norm", "groups": 2}
    factory = norm_layer(spec)
    spec["groups"] = 3
    assert factory(4).num_groups == pickle.loads(pickle.dumps(factory))(4).num_groups == 2


def test_layers_of_timm_work_by_path():
    pytest.importorskip("timm")
    block = ConvBlock(3, C, 1, norm=norm_layer({"kind": "timm.layers:LayerNorm2d", "eps": 1e-6}))
    assert type(block.norm).__name__ == "LayerNorm2d"
    assert block.norm.eps == 1e-6
    rms = ConvBlock(3, C, 1, norm=norm_layer("timm.layers:RmsNorm2d"))  # no subclass of a torch norm
    assert norm_parameters(rms) == {"norm.weight"}
    taps = nn.ModuleDict({"conv4_3": norm_layer("timm.layers:RmsNorm2d")(C), "head": nn.Conv2d(C, 4, 1)})
    assert norm_parameters(copy.deepcopy(taps)) == {"conv4_3.weight"}


def test_a_model_of_torchvision_knows_its_norm_parameters():
    from torchvision.models import resnet18

    model = resnet18(num_classes=3)
    expected = {key for key, p in model.named_parameters() if "bn" in key or "downsample.1" in key}
    assert norm_parameters(model) == expected


@pytest.mark.parametrize("layer", [ChannelLayerNorm(8), ChannelRMSNorm(8), InstanceNorm(8), FrozenBatchNorm(8)])
def test_another_number_of_channels_is_refused(layer):
    with pytest.raises(ValueError, match=r"\(8\) expects \(B, 8, …\); got \(1, 4, 2, 2\)"):
        layer(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torch.nn:LayerNorm", r"norm: torch.nn:LayerNorm: takes no map \(2, 8, 3, 3\): Given normalized_shape"),
        ("torch.nn:LazyBatchNorm2d", r"norm: torch.nn:LazyBatchNorm2d: has no parameters before"),
        ("torch.nn:BatchNorm1d", r"norm: torch.nn:BatchNorm1d: takes no map .*expected 2D or 3D input"),
        ("torch.nn:AdaptiveAvgPool2d", r"expected a map \(2, 8, 3, 3\) from it; got \(2, 8, 8, 8\)"),
        ("torch:zeros", r"norm: torch:zeros: expected a Module"),
    ],
)
def test_a_class_that_takes_no_map_is_refused(kind, message):
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        norm_layer(kind)(8)
    assert torch.equal(torch.get_rng_state(), before)
