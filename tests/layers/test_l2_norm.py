"""L2Norm against its formula, position by position, and through every tool that will meet it."""

import io

import pytest
import torch
from torch import nn

from ssdnorm.layers import L2Norm


def l2_norm_by_hand(x, weight, eps):
    """One position at a time, in Python floats."""
    flat = x.double().flatten(2).clone()
    for image in flat:
        for p in range(image.shape[1]):
            length = (sum(v * v for v in image[:, p].tolist()) + eps) ** 0.5
            scaled = [w * v / length for w, v in zip(weight, image[:, p].tolist(), strict=True)]
            image[:, p] = torch.tensor(scaled, dtype=torch.float64)
    return flat.reshape(x.shape)


def layer_with_distinct_weights(channels, **options):
    layer = L2Norm(channels, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(10, 30, channels))
    return layer


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("magnitude", "eps"), [(1e-3, 1e-10), (1.0, 1e-2), (1.0, 3.0), (1e3, 1e-10)])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-14)])
def test_matches_the_formula_position_by_position(magnitude, eps, memory_format, dtype, rtol):
    x = (magnitude * torch.randn(2, 8, 3, 5, dtype=dtype)).to(memory_format=memory_format)
    layer = layer_with_distinct_weights(8, eps=eps).to(dtype)
    expected = l2_norm_by_hand(x, layer.weight.tolist(), layer.eps)
    torch.testing.assert_close(layer(x), expected.to(dtype), rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 2, 5), (3, 4, 2, 3, 5), (0, 4, 2, 2)])
def test_takes_any_number_of_axes_after_the_channels(shape):
    x = torch.randn(shape)
    y = L2Norm(4, scale=7.0)(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y.norm(dim=1), torch.full_like(y[:, 0], 7.0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_right_to_the_second_order_and_forwards(memory_format):
    x = torch.randn(2, 5, 3, 2, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    layer = layer_with_distinct_weights(5, eps=0.5).double()
    weight = layer.weight.detach().clone().requires_grad_()

    def run(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(run, (x, weight), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(run, (x, weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_value_and_gradient_are_finite_at_an_all_zero_position(dtype):
    x = torch.randn(2, 4, 3, 3, dtype=dtype)
    x[1, :, 2, 0] = 0
    x.requires_grad_()
    y = L2Norm(4)(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert (y[1, :, 2, 0] == 0).all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_beyond_float16_is_held_at_its_largest_number(compiled):
    x = torch.zeros(1, 4, 1, 1, dtype=torch.float16, requires_grad=True)
    layer = L2Norm(4)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    run(x).sum().backward()  # 20 / √1e-10 = 2e6
    assert x.grad.flatten().tolist() == [65504.0] * 4


def test_an_overflow_elsewhere_still_shows_in_the_gradient_of_the_weight():
    x = torch.randn(1, 4, 1, 1, dtype=torch.float16, requires_grad=True)
    layer = L2Norm(4)
    layer(x).backward(torch.full_like(x, float("inf")))
    assert not layer.weight.grad.isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow_at_60000(dtype):
    x = torch.full((1, 512, 2, 2), 60_000.0, dtype=dtype, requires_grad=True)
    y = L2Norm(512)(x)
    y.float().square().sum().backward()
    torch.testing.assert_close(y.float(), torch.full(y.shape, 20 / 512**0.5), rtol=1e-2, atol=0)
    assert x.grad.isfinite().all()


def test_float32_weights_serve_bfloat16_maps_and_autocast():
    x = torch.randn(2, 8, 3, 3, requires_grad=True)
    layer = layer_with_distinct_weights(8)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x.bfloat16())
        half.float().sum().backward()
    assert half.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(half.float(), layer(x), rtol=2e-2, atol=0)


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((2, 8, 3, 5), torch.channels_last),
        ((2, 8, 3, 5), torch.contiguous_format),
        ((2, 8, 3, 5, 2), torch.channels_last_3d),
    ],
)
def test_output_and_gradient_keep_the_memory_format(shape, memory_format):
    x = torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_()
    y = L2Norm(8)(x)
    y.square().sum().backward()
    assert y.is_contiguous(memory_format=memory_format)
    assert x.grad.is_contiguous(memory_format=memory_format)


def test_builds_and_runs_on_the_meta_device():
    layer = L2Norm(4, device="meta", dtype=torch.float16)
    assert layer.weight.dtype == torch.float16
    assert layer(torch.empty(2, 4, 3, 3, device="meta")).shape == (2, 4, 3, 3)
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer.weight.tolist() == [20.0] * 4


def test_a_fixed_scale_is_a_buffer_of_the_same_name():
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    fixed, learnable = L2Norm(4, scale=3.0, learnable=False), L2Norm(4)
    fixed(x).sum().backward()
    assert x.grad is not None
    assert list(fixed.parameters()) == []
    learnable.load_state_dict(fixed.state_dict())
    assert learnable.weight.tolist() == [3.0] * 4
    assert "learnable=False" in repr(fixed)
    assert "learnable=True" in repr(learnable)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L2Norm(512)(torch.zeros(1, 256, 4, 4)), r"L2Norm\(512\) expects \(B, 512, …\); got \(1, 256, 4, 4\)"),
        (lambda: L2Norm(512)(torch.zeros(512)), r"L2Norm\(512\) expects \(B, 512, …\); got \(512,\)"),
        (lambda: L2Norm(0), "num_features is 1 or more; got 0"),
        (lambda: L2Norm(4, eps=0), r"eps is above 0.*got 0"),
    ],
)
def test_mistakes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_works_under_vmap_and_functional_gradients():
    layer = layer_with_distinct_weights(4)
    x = torch.randn(3, 2, 4, 3, 3)
    torch.testing.assert_close(torch.func.vmap(layer)(x), torch.stack([layer(part) for part in x]))
    per_image = torch.func.vmap(torch.func.grad(lambda x: layer(x[None]).pow(3).sum()))(x[0])
    whole = x[0].clone().requires_grad_()
    layer(whole).pow(3).sum().backward()
    torch.testing.assert_close(per_image, whole.grad, rtol=1e-4, atol=1e-3)


def test_is_one_node_for_torch_fx_and_can_be_scripted():
    layer = layer_with_distinct_weights(4)
    x = torch.randn(2, 4, 3, 3)
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))
    torch.testing.assert_close(traced(x), layer(x))
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


@pytest.mark.filterwarnings("ignore")
def test_the_onnx_file_of_a_traced_layer_gives_the_same_and_keeps_eps():  # test_norms.py has torch.export's
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    layer = layer_with_distinct_weights(8)
    x = torch.randn(2, 8, 3, 3)
    x[1, :, 2, 0] = 0  # 0 / 0 if an optimizer drops eps
    buffer = io.BytesIO()
    torch.onnx.export(layer, (x,), buffer, dynamo=False)
    session = runtime.InferenceSession(buffer.getvalue())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), layer(x).detach(), rtol=1e-5, atol=1e-5)
