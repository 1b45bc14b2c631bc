"""This file is about the catalogue: all demonstrations by name."""

from __future__ import annotations

from examples.lab.batch_size import draw_batch_size, measure_batch_size
from examples.lab.deep_mlp import draw_deep_mlp, measure_deep_mlp
from examples.lab.demonstration import Demonstration
from examples.lab.dropout import draw_dropout, measure_dropout
from examples.lab.l2norm import draw_l2norm, measure_l2norm
from examples.lab.moving_average import draw_moving_average, measure_moving_average
from examples.lab.train_eval_gap import draw_train_eval_gap, measure_train_eval_gap
from ssdnorm.messages import did_you_mean

DEMONSTRATIONS = {
    "deep-mlp": Demonstration(
        "What does batch norm do for seven hidden layers with badly scaled weights?", measure_deep_mlp, draw_deep_mlp
    ),
    "moving-average": Demonstration(
        "What do the decay, the framework's convention and a forgotten update do to batch norm's averages?",
        measure_moving_average,
        draw_moving_average,
    ),
    "train-eval-gap": Demonstration(
        "Why does a batch norm that has learnt two numbers in train mode miss them in eval mode?",
        measure_train_eval_gap,
        draw_train_eval_gap,
    ),
    "batch-size": Demonstration(
        "What does an image's output owe to the other images in its batch?", measure_batch_size, draw_batch_size
    ),
    "dropout": Demonstration(
        "What does dropout do to mean and variance, and to a batch norm behind it?", measure_dropout, draw_dropout
    ),
    "l2norm": Demonstration(
        "What does L2Norm do to conv4_3 on photographs, and what can go wrong in its formula?",
        measure_l2norm,
        draw_l2norm,
        on_photographs=True,
    ),
}


def find_demonstration(name: str) -> Demonstration:
    """The demonstration of that name.

    Raises:
        ValueError: an unknown name; lists the choices and the nearest guess.
    """
    if name not in DEMONSTRATIONS:
        hint = did_you_mean(name, DEMONSTRATIONS)
        raise ValueError(f"unknown demonstration {name!r}; choose one of: {', '.join(DEMONSTRATIONS)}.{hint}")
    return DEMONSTRATIONS[name]
