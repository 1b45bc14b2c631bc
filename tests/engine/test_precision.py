"""The choice of a precision: by measured times, and on this machine by a real multiplication."""

import pytest
import torch

from ssdnorm.engine import precision
from ssdnorm.engine.precision import choose_precision, multiplication_seconds
from ssdnorm.settle import settle_precision
from tests.small_training import tiny_config


@pytest.mark.parametrize(
    ("gain", "chosen"), [(4.0, "bf16-mixed"), (1.31, "bf16-mixed"), (1.2, "32-true"), (0.3, "32-true")]
)
def test_bf16_is_chosen_where_it_is_measured_to_be_faster(gain, chosen, monkeypatch, caplog):
    seconds = {torch.float32: gain, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "multiplication_seconds", lambda device, dtype: seconds[dtype])
    with caplog.at_level("INFO", logger="ssdnorm.engine"):
        assert choose_precision("cpu") == chosen
    assert f"auto is {chosen}; bfloat16 multiplies {gain:.2g} times as fast as float32 on cpu" in caplog.text


def test_a_machine_without_a_gpu_is_measured_and_a_device_without_bfloat16_gets_float32(monkeypatch):
    devices = set()

    def measure(device, dtype):
        devices.add(device.type)
        if dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return 1.0

    monkeypatch.setattr(precision, "multiplication_seconds", measure)
    assert choose_precision("auto") == "32-true"
    assert (devices == {"cpu"}) is not torch.accelerator.is_available()


def test_the_measurement_is_of_both_types_and_made_once(monkeypatch):
    monkeypatch.setitem(precision._SIDE, "cpu", 8)
    cpu = torch.device("cpu")
    multiplication_seconds.cache_clear()
    for dtype in (torch.float32, torch.bfloat16):
        assert multiplication_seconds(cpu, dtype) == multiplication_seconds(cpu, dtype) > 0
    multiplication_seconds.cache_clear()


def test_only_auto_is_settled(monkeypatch):
    monkeypatch.setattr("ssdnorm.settle.choose_precision", lambda accelerator: f"measured on {accelerator}")
    assert settle_precision(tiny_config(training={"precision": "auto"})).training.precision == "measured on cpu"
    given = tiny_config(training={"precision": "bf16-mixed"})
    assert settle_precision(given) is given
