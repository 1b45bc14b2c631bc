"""Population statistics: the numbers of all images at once, in one process and in two."""

import copy

import pytest
import torch
from torch import distributed, multiprocessing, nn

from ssdnorm.layers import ConvBlock, norm_layer, recompute_population_stats, running_statistics


def model_and_images(momentum=0.1):
    torch.manual_seed(0)
    norm = norm_layer({"kind": "batch_norm", "momentum": momentum})
    model = nn.Sequential(ConvBlock(3, 8, 3, norm=norm, dropout=0.5), ConvBlock(8, 4, 3, norm=norm))
    return model, 2 + torch.randn(12, 3, 8, 8) * torch.linspace(0.5, 4, 12).reshape(-1, 1, 1, 1)


def test_first_layer_gets_mean_and_variance_of_all_images_at_once():
    model, images = model_and_images()
    recompute_population_stats(model, images.split([5, 5, 2]), 12)
    y = model[0].conv(images)
    torch.testing.assert_close(model[0].norm.running_mean, y.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].norm.running_var, y.var((0, 2, 3)))


def test_one_batch_of_everything_makes_evaluation_equal_to_batch_statistics():
    model, images = model_and_images()
    recompute_population_stats(model, [images], 12)
    expected = images
    for block in model:
        y = block.conv(expected)
        var, mean = torch.var_mean(y, (0, 2, 3), keepdim=True)
        expected = ((y - mean) / (var + 1e-5).sqrt()).relu()
        if block is model[0]:
            biased = ((y - mean) / (y.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()).relu()
            torch.testing.assert_close(model[1].norm.running_mean, model[1].conv(biased).mean((0, 2, 3)))
    torch.testing.assert_close(model.eval()(images), expected, rtol=1e-2, atol=1e-2)


def test_exactly_the_images_asked_for_are_used():
    model, images = model_and_images()
    twin = copy.deepcopy(model)
    recompute_population_stats(model, iter(images.split(5)), 7)
    recompute_population_stats(twin, [images[:5], images[5:7]], 7)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[key])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_modes_momentum_counts_and_weights_stay(momentum):
    model, images = model_and_images(momentum)
    model(images[:5])
    model[1].eval()
    before = copy.deepcopy(model)
    recompute_population_stats(model, [images], 12)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert model[0].norm.momentum == momentum
    for key, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[key]) == (not key.endswith(("mean", "var"))), key
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_running_statistics_can_be_put_back():
    model, images = model_and_images()
    model(images)
    saved = running_statistics(model)
    expected = model.eval()(images)
    recompute_population_stats(model, [images], 12)
    assert not torch.allclose(model(images), expected)
    missing = model.load_state_dict(saved, strict=False)
    assert not missing.unexpected_keys
    assert torch.equal(model(images), expected)


def test_too_few_images_and_no_batch_norm_are_refused_and_nothing_changes():
    model, images = model_and_images()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="13 images asked for; the batches hold 12"):
        recompute_population_stats(model, [images], 13)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="no batch norm with running statistics"):
        recompute_population_stats(nn.Conv2d(3, 3, 1), [images], 12)


def _one_of_two(rank, file, results):
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model, images = model_and_images()
    mine = images[:4] if rank == 0 else images[4:]
    recompute_population_stats(model, [mine], len(mine))
    results[rank] = [t.numpy() for t in (model[0].norm.running_mean, model[0].norm.running_var)]
    distributed.destroy_process_group()


def test_two_processes_find_the_statistics_of_all_images(tmp_path):
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(_one_of_two, (str(tmp_path / "store"), results), nprocs=2)
        ranks = [results[rank] for rank in (0, 1)]
    model, images = model_and_images()
    y = model[0].conv(images).detach()
    for found in ranks:
        for got, want in zip(found, [y.mean((0, 2, 3)), y.var((0, 2, 3))], strict=True):
            torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-4, atol=1e-5)
