"""Batch norm's three statistics: distances against plain formulas, curves against a simulation, advice in words."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ssdnorm.diagnose.batch_norm import batch_norm_distances, batch_norm_uses, distance
from ssdnorm.diagnose.batch_norm_advice import batch_norm_advice, batch_norm_report
from ssdnorm.diagnose.momentum import momentum_curves


def network(*, momentum=0.1, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )


def batches(num=4, size=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(num, size, 3, 1, 1, generator=generator)  # images differ as wholes
    return list(torch.randn(num, size, 3, 8, 8, generator=generator) + offsets)


def settle(model, images):
    """Running statistics that are the population's."""
    _, population = batch_norm_distances(model, images)
    model.load_state_dict(population, strict=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.tensor(100)
    return model


@pytest.fixture
def settled():
    images = batches(num=8)
    return settle(network(), images), images


def test_distances_are_those_of_the_pooled_inputs():
    model, images = network(), batches()
    model[1].running_mean.copy_(torch.tensor([1.0, -1.0, 0.5, 0.0]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows, population = batch_norm_distances(model, images)
    x = model[0](torch.cat(images)).detach().double()
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    row = rows[0]
    assert (row.name, row.channels, row.momentum, row.num_batches_tracked) == ("1", 4, 0.1, 0)
    torch.testing.assert_close(population["1.running_var"].double(), var, rtol=1e-5, atol=0)
    shift = (torch.tensor([1.0, -1.0, 0.5, 0.0]).double() - mean) / (var + 1e-5).sqrt()
    assert row.running.mean_shift == pytest.approx(shift.square().mean().sqrt().item(), rel=1e-4)
    assert row.running.variance_ratio == pytest.approx(((1 + 1e-5) / (var + 1e-5)).log().mean().exp().item(), rel=1e-4)
    by_batch = [(model[0](b).mean((0, 2, 3)).detach().double() - mean) / (var + 1e-5).sqrt() for b in images]
    assert row.batch.mean_shift == pytest.approx(torch.stack(by_batch).square().mean().sqrt().item(), rel=1e-4)
    torch.testing.assert_close(row.image_means, x.mean((2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(row.image_variances, x.var((2, 3), correction=0), rtol=1e-4, atol=1e-5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.training


def test_the_worst_channel_is_told_beside_the_mean():
    one = torch.ones(3)
    found = distance(one, torch.tensor([1.0, 8.0, 0.5]), one, one, eps=0.0)
    assert found.variance_ratio == pytest.approx(4 ** (1 / 3))
    assert found.worst_variance_ratio == pytest.approx(8.0)
    logs = [math.log(r) for r in (1.0, 8.0, 0.5)]
    assert found.variance_factor == pytest.approx(math.exp(math.hypot(*logs) / 3**0.5))
    assert distance(one, torch.tensor([1.0, 2.0, 0.1]), one, one, eps=0.0).worst_variance_ratio == pytest.approx(0.1)


def test_a_layer_uses_the_statistics_that_are_asked_for_and_gets_its_own_back():
    model, images = network(), batches(num=1)
    _, population = batch_norm_distances(model, images)
    x = model[0](images[0]).detach()
    with batch_norm_uses(model, "batch"):
        as_batch = model[:2](images[0])
    with batch_norm_uses(model, "population", population):
        as_population = model[:2](images[0])
    with batch_norm_uses(model, "running"):
        as_running = model[:2](images[0])
    axes, shape = (0, 2, 3), (1, 4, 1, 1)
    for correction, found in ((0, as_batch), (1, as_population)):
        by_hand = (x - x.mean(axes).view(shape)) / (x.var(axes, correction=correction).view(shape) + 1e-5).sqrt()
        torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(as_running, x / (1 + 1e-5) ** 0.5)
    assert model[1].num_batches_tracked == 0
    assert model[1].training


@pytest.mark.parametrize(("momentum", "size"), [(1.0, 4), (0.3, 2), (0.1, 8)])
def test_the_curves_are_what_a_long_simulation_of_the_running_average_gives(momentum, size):
    rows, _ = batch_norm_distances(network(), batches(num=8))
    curves = momentum_curves(rows[:1], batch_sizes=[size], momenta=[momentum])
    inputs = network()[0](torch.cat(batches(num=8))).detach()  # the layer's inputs of 32 images
    mean, var = inputs.mean((0, 2, 3)), inputs.var((0, 2, 3))
    layer = nn.BatchNorm1d(4, momentum=momentum)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
    generator, errors = torch.Generator().manual_seed(5), []
    for step in range(2500):
        drawn = inputs[torch.randint(32, (size,), generator=generator)]
        layer(drawn.permute(1, 0, 2, 3).flatten(1).T)
        if step > 50:
            shift = (layer.running_mean - mean) / var.sqrt()
            ratio = layer.running_var / var - 1
            errors.append((shift.square().mean().item(), ratio.square().mean().item()))
    mean_error, variance_error = torch.tensor(errors).mean(0).sqrt().tolist()
    assert curves.mean_error[0][0] == pytest.approx(mean_error, rel=0.1)
    assert curves.variance_error[0][0] == pytest.approx(variance_error, rel=0.1)


def test_small_batches_understate_the_variance_by_what_lies_between_the_images():
    rows, _ = batch_norm_distances(network(), batches(num=8))
    row = rows[0]
    curves = momentum_curves([row], batch_sizes=[1, 2, 8, 64])
    assert curves.batch_sizes == (1, 2, 8)  # 64 images would be drawn from 32
    between = row.image_means.var(0, correction=0)
    between = between / (between + row.image_variances.mean(0))
    expected = -between.mean().item()  # a batch of one has none of it, a batch of two half
    assert curves.variance_bias[0] == pytest.approx(expected, rel=0.15)
    assert curves.variance_bias[1] == pytest.approx(expected / 2, rel=0.3)
    assert curves.variance_bias[0] < curves.variance_bias[1] < curves.variance_bias[2] < 0.05
    for by_momentum in curves.mean_error:
        assert by_momentum == sorted(by_momentum, reverse=True)  # momenta fall


def test_settled_statistics_need_no_advice(settled):
    report, _ = batch_norm_report(*settled)
    assert report.output_distance["running"]["output"] == pytest.approx(0, abs=1e-6)
    assert report.output_distance["batch"]["output"] > 0.01
    assert report.company["eval"] < 1e-6 < report.company["train"]
    (sentence,) = batch_norm_advice(report)
    assert sentence.startswith("running statistics agree with the population's")


def test_wrong_statistics_are_named_with_their_distance_and_a_way_out(settled):
    model, images = settled
    model[1].running_var.mul_(4.0)
    model[4].running_mean.add_(0.5 * (model[4].running_var + 1e-5).sqrt())
    model[4].num_batches_tracked.zero_()
    report, _ = batch_norm_report(model, images)
    advice = " ".join(batch_norm_advice(report))
    off = "running variance of 1 is 4× the population's; running mean of 4 lies 0.5 σ from the population's"
    assert f"{off}: recompute (training.population_images)" in advice
    assert "the running statistics of 4 were never updated" in advice
    assert report.output_distance["running"]["output"] > 0.1
    assert report.as_json()["layers"]["1"]["running"]["variance_ratio"] == pytest.approx(4, rel=1e-3)


def test_wrong_variances_that_cancel_over_the_channels_are_named_too():
    images = batches(num=8)
    torch.manual_seed(0)
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), images)
    model[1].running_var[:2] *= 16
    model[1].running_var[2:] /= 16
    report, _ = batch_norm_report(model, images)
    running = report.layers[0].running
    assert running.variance_ratio == pytest.approx(1, rel=1e-3)  # the geometric mean says nothing
    assert running.variance_factor == pytest.approx(16, rel=1e-3)
    assert max(running.worst_variance_ratio, 1 / running.worst_variance_ratio) == pytest.approx(16, rel=1e-3)
    assert report.output_distance["running"]["output"] > 2
    advice = " ".join(batch_norm_advice(report))
    assert "running variances of 1 lie a factor of 16 from the population's, channel by channel: recompute" in advice
    assert "agree" not in advice


@pytest.mark.parametrize(("distance", "agrees"), [(0.19, True), (0.21, False), (math.nan, False)])
def test_an_output_far_off_is_no_agreement_though_no_layer_is_off(settled, distance, agrees):
    model, images = settled
    model[4].running_var[1] *= 1.4
    report, _ = batch_norm_report(model, images)
    assert all(row.running.variance_factor < 1.5 for row in report.layers)
    far = {"running": {"boxes": 0.0, "output": distance}, "batch": {"boxes": 0.0, "output": 1.0}}
    (sentence,) = batch_norm_advice(replace(report, output_distance=far))
    assert sentence.startswith("running statistics agree") == agrees
    if not agrees:
        assert "no layer as a whole is off; the furthest channel, in 4, has 1.4× the population's variance" in sentence
        assert ("the output lies 21% from" in sentence) == (distance == 0.21)


def test_a_population_of_another_model_is_refused():
    model = network()
    for population, message in (({"7.running_var": torch.ones(2)}, "no '7.running_var' in the model"), (None, "given")):
        with (
            pytest.raises(ValueError, match=rf"population: .*{message}"),
            batch_norm_uses(model, "population", population),
        ):
            pass
    assert model.training


def test_a_layer_that_uses_its_batch_in_eval_mode_is_found_out():
    class Sneaky(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[0].training = True
            return self

    model = Sneaky(nn.BatchNorm2d(3, track_running_stats=False), *network())
    images = batches(num=8)
    report, _ = batch_norm_report(settle(model, images), images)
    assert report.company["eval"] > 0.01
    assert "in eval mode an image's output changes" in " ".join(batch_norm_advice(report))


def test_batches_that_see_too_little_of_the_variance_are_told():
    images = [batch * 0.05 + 10 * torch.randn(2, 3, 1, 1) for batch in batches(num=12, size=2)]
    report, _ = batch_norm_report(settle(network(), images), images)
    sentence = " ".join(batch_norm_advice(report))
    assert "a batch of 2 sees 0.5" in sentence
    assert "group_norm" in sentence


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"the model has no batch norm with running statistics"):
        batch_norm_report(nn.Sequential(nn.Conv2d(3, 2, 1)), batches())
    with pytest.raises(ValueError, match=r"two images or more, four images in all; got 4, 1"):
        batch_norm_report(network(), [torch.randn(4, 3, 8, 8), torch.randn(1, 3, 8, 8)])
    with pytest.raises(ValueError, match=r"no images to take statistics over"):
        batch_norm_distances(network(), [])
    with pytest.raises(ValueError, match=r"needs the statistics of two images at least; got 0"):
        momentum_curves([])
