"""Words that change nothing, and devices that are not here."""

import pytest

from ssdnorm.cli.checks import parse_device
from ssdnorm.config_file import evaluation_overrides


@pytest.mark.parametrize(
    "key",
    [
        *("norm.backbone", "model.width", "training.ema_decay", "data.train.root", "data.validation"),
        *("data.train_on_difficult", "runtime.cache_images", "runtime.diagnose_every"),
    ],
)
def test_keys_of_a_training_are_refused_where_there_is_none(key):
    with pytest.raises(ValueError, match=f"--{key}: has no effect on a trained model"):
        evaluation_overrides([f"--{key}=1"])


def test_keys_of_an_evaluation_are_taken_and_another_test_set_only_where_no_annotations_are_given():
    keys, test = ["--data.class_names=[a]", "--training.batch_size", "4"], "--data.test.split=val"
    assert evaluation_overrides([*keys, test])["data.test.split"] == "val"
    assert evaluation_overrides(keys, test_given=True) == {"data.class_names": ["a"], "training.batch_size": 4}
    with pytest.raises(ValueError, match=r"--data.test.split: does not go with --annotations"):
        evaluation_overrides([*keys, test], test_given=True)


@pytest.mark.parametrize("name", ["zzz", "meta", "mps", "cuda:99", "xpu"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(ValueError, match="--device: "):
        parse_device(name)
    assert parse_device("cpu").type == "cpu"
