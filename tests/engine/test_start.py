"""The digest of a run's start: that of the weights and batches that the config gives, and only of a new start."""

import json
from types import SimpleNamespace

import pytest
import torch

from ssdnorm.engine.start import StartFile, digest
from tests.small_training import tiny_config, tiny_module, train


def test_a_run_records_its_initial_weights_and_first_batches(tmp_path):
    changes = {"norm": {"backbone": "batch_norm"}, "training": {"max_steps": 2}}
    assert train(tmp_path / "run", **changes) == 0
    start = json.loads((tmp_path / "run" / "start.json").read_text())

    module = tiny_module(tiny_config(**changes))
    batches = iter(module.make_train_loader(rank=0, world_size=1, start_batch=0))
    assert start["weights"] == {name: digest([value]) for name, value in module.model.named_parameters()}
    expected = [digest([batch.images, batch.boxes, batch.labels]) for batch, _ in zip(batches, range(2), strict=False)]
    assert start["batches"] == expected
    assert start["batch_norm_images"] == 3
    parameters = sum(group["parameters"] for group in start["parameter_groups"])
    assert parameters == sum(p.numel() for p in module.model.parameters())


def test_a_process_that_is_not_the_first_and_a_run_past_its_first_step_write_nothing(tmp_path):
    callback = StartFile(tmp_path, {})
    for first, step in ((False, 0), (True, 2)):
        callback.on_train_batch_start(SimpleNamespace(is_global_zero=first, global_step=step), None, None, 0)
    assert not callback.path.exists()


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"batches": 3}'])
def test_a_damaged_start_of_a_run_resumed_after_its_first_step_is_named(tmp_path, content):
    callback = StartFile(tmp_path, {})
    callback.path.write_text(content)
    with pytest.raises(ValueError, match=r"start\.json: damaged; delete it to go on without it: "):
        callback.on_train_batch_start(SimpleNamespace(is_global_zero=True, global_step=1), None, None, 1)


def test_digests_tell_values_shapes_and_the_smallest_bit_apart():
    ones = torch.ones(2, 3)
    assert digest([ones]) == digest([ones.clone(memory_format=torch.preserve_format)])
    others = [ones.reshape(3, 2), ones.nextafter(torch.tensor(2.0)), ones.bfloat16(), torch.ones(2, 4)]
    assert len({digest([value]) for value in (ones, *others)}) == 5
    assert digest([torch.arange(6.0).reshape(2, 3).T.contiguous()]) == digest([torch.arange(6.0).reshape(2, 3).T])
