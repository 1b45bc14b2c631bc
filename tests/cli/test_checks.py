"""Words that change nothing, and devices that are not here."""

import pytest

from ssdnorm.cli.checks import check_evaluation_keys, parse_device


@pytest.mark.parametrize(
    "word",
    [
        "--norm.backbone=group_norm",
        "--model.width=0.5",
        "--training.ema_decay=0.9",
        "--data.train.root=x",
        "--data.validation=null",
        "--data.train_on_difficult=false",
        "--runtime.cache_images=9",
        "--runtime.diagnose_every=9",
    ],
)
def test_keys_of_a_training_are_refused_where_there_is_none(word):
    with pytest.raises(ValueError, match=f"{word.partition('=')[0]}: has no effect on a trained model"):
        check_evaluation_keys([word])


def test_keys_of_an_evaluation_are_taken():
    check_evaluation_keys(["--data.test.split=val", "--runtime.num_workers=2", "--training.batch_size", "4"])


def test_another_test_set_is_refused_where_annotations_are_given():
    with pytest.raises(ValueError, match=r"--data.test.split: does not go with --annotations"):
        check_evaluation_keys(["--data.test.split=val"], test_given=True)
    check_evaluation_keys(["--data.class_names=[a]"], test_given=True)


@pytest.mark.parametrize("name", ["zzz", "meta", "mps", "cuda:99", "xpu"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(ValueError, match="--device: "):
        parse_device(name)
    assert parse_device("cpu").type == "cpu"
