"""Progress in a log: a line when ten seconds have passed, at the first step and at the last."""

from types import SimpleNamespace

import pytest

from ssdnorm.engine import progress
from ssdnorm.engine.module import TrainingModule
from ssdnorm.engine.progress import ProgressLines, StepBar, make_progress


def test_a_log_gets_a_line_every_ten_seconds_with_step_loss_speed_and_time_to_go(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    module = TrainingModule.__new__(TrainingModule)
    module.__dict__["readings"] = {"loss": 3.25, "images_per_second": 12.5}
    trainer = SimpleNamespace(global_step=20, max_steps=60, is_global_zero=True)
    lines = ProgressLines()
    lines._trainer = trainer
    lines.on_train_start(trainer, module)
    with caplog.at_level("INFO", logger="ssdnorm.engine"):
        for step in range(21, 61):
            trainer.global_step = step
            now[0] += 4
            lines.on_train_batch_end(trainer, module, None, None, step - 1)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "step 21 of 60, loss 3.25, 12.5 img/s, 2.6 min to go"
    assert said[1] == "step 24 of 60, loss 3.25, 12.5 img/s, 2.4 min to go"
    assert len(said) == 14
    assert said[-1] == "step 60 of 60, loss 3.25, 12.5 img/s"


@pytest.mark.parametrize(("terminal", "kind"), [(True, StepBar), (False, ProgressLines)])
def test_a_terminal_gets_a_bar(monkeypatch, terminal, kind):
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal))
    assert isinstance(make_progress(), kind)
