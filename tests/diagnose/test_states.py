"""Models in any state, frozen, half precision, compiled, wrapped: they are measured, and left as they were."""

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import ssdnorm
from ssdnorm.diagnose import activation_statistics
from ssdnorm.diagnose.batch_norm import batch_norm_distances, batch_norm_uses
from ssdnorm.diagnose.batch_norm_advice import batch_norm_report

STATES = ["frozen", "bfloat16", "float16", "compiled", "compiled in place", "distributed"]


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(params=STATES)
def state(request):
    if request.param == "distributed":
        request.getfixturevalue("process_group")
    yield request.param
    torch.compiler.reset()


def small_ssd():
    torch.manual_seed(0)
    model = ssdnorm.ssd300_vgg16(4, width=0.02, backbone_norm="batch_norm").eval()
    for name, buffer in model.named_buffers():  # unlike those of any data
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model


def put_into(state, model):
    match state:
        case "frozen":
            return model.requires_grad_(False)
        case "bfloat16" | "float16":
            return model.to(getattr(torch, state))
        case "compiled":
            return torch.compile(model, backend="eager")
        case "compiled in place":
            model.compile(backend="eager")
            return model
        case "distributed":
            return DistributedDataParallel(model)


def images(state):
    x = torch.rand(4, 3, 300, 300, generator=torch.Generator().manual_seed(1))
    return x.to(getattr(torch, state)) if state.endswith("float16") else x


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@torch.no_grad()
def outputs(model, x):
    return [y.clone() for y in model(x)]


def expect_equal(found, expected):
    assert len(found) == len(expected) == 2
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def measure_activations(model, x):
    with torch.compiler.set_stance("force_eager"):  # as a compiled model is measured
        expected, seen = outputs(model, x), []
    found = activation_statistics(model, [x], forward=lambda m, images: seen.extend(m(images)))
    expect_equal(seen, expected)
    assert len(found.activations) == 29
    assert found.activations["conv4_3"].length_mean > 0


def measure_batch_norms(model, x):
    report, population = batch_norm_report(model, list(x.split(2)))
    assert len(report.layers) == 15
    assert report.layers[0].name == "features.backbone.conv1_1.norm"
    assert report.output_distance["running"]["logits"] > 0.01
    assert set(population) <= set(small_ssd().state_dict())


def use_population(model, x):
    plain = small_ssd().to(x.dtype)
    _, population = batch_norm_distances(plain, list(x.split(2)))
    with batch_norm_uses(model, "population", population):
        found = outputs(model, x)  # through the wrapper
    assert not torch.equal(found[0], outputs(model, x)[0])
    plain.load_state_dict(population, strict=False)
    expect_equal(found, outputs(plain, x))


def test_a_model_in_any_state_is_measured_and_its_outputs_stay_bit_identical(state):
    model = put_into(state, small_ssd())
    x = images(state)
    expected, modes = outputs(model, x), [m.training for m in model.modules()]
    for measure in (measure_activations, measure_batch_norms, use_population):
        measure(model, x)
        assert hooks_of(model) == 0
        assert [m.training for m in model.modules()] == modes
        expect_equal(outputs(model, x), expected)
