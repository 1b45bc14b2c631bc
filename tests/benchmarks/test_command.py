"""The benchmark command: tables and goals by the numbers, files, refusals."""

import json
import time
from functools import partial

import pytest
import torch
import torchvision

from benchmarks import fold, gpu, kernels, l2_norm, loss, post_process, training_step
from benchmarks.command import GPU_TABLES
from benchmarks.kernel_count import KernelCount
from benchmarks.l2_norm import l2_norm_goals, measure_l2_norm
from benchmarks.loss import without_contested
from benchmarks.made_up_outputs import draw_targets, trained_output, untrained_output
from benchmarks.post_process import same_detections
from benchmarks.table import Goal, Settings, Table, seconds_to_compile
from benchmarks.torchvision_ssd import TorchvisionSSD, nms_as_on_a_gpu, torchvision_targets
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.cli import main as _main
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import ssd300_vgg16
from ssdnorm.structures import SSDOutput

main = partial(_main, known={"benchmark": "benchmarks.command"})
QUICK = Settings(quick=True)


def test_the_goals_of_l2_norm_are_read_from_the_channels_last_rows():
    row = {"memory_format": "channels_last", "kept_mb": 10.05}
    rows = [
        {**row, "candidate": "L2Norm", "forward_times_faster": 1.4, "both_times_faster": 1.79},
        {**row, "candidate": "L2Norm", "memory_format": "contiguous", "forward_times_faster": 0.1},
    ]
    assert [goal.verdict for goal in l2_norm_goals(rows[:1], input_mb=10.0)] == [
        "met",
        "not met",
        "not measured",
        "not measured",
        "met",
    ]


def test_all_candidates_are_measured_in_both_memory_formats():
    rows = measure_l2_norm(QUICK, (1, 8, 4, 4), repeats=2, compiled=False)
    for memory_format in ("channels_last", "contiguous"):
        names = [row["candidate"] for row in rows if row["memory_format"] == memory_format]
        assert names == ["amdegroot", "F.normalize * w", "L2Norm", "copy"]
    assert all(row["forward_times_faster"] == 1 for row in rows if row["candidate"] == "amdegroot")


def test_folding_keeps_the_output_and_takes_every_norm_out():
    row = fold.measure_fold(QUICK, width=0.02)
    assert row["difference"] < 1e-4
    assert row["norms_folded"] == 23


def test_the_losses_table_compares_with_torchvisions(monkeypatch):
    monkeypatch.setattr(loss, "_CASES", ((2, 5, 1e9), (1, 5, 0.0)))
    table = loss.measure(QUICK)
    assert [goal.verdict for goal in table.goals] == ["not met", "met", "met", "met"]
    assert all(row["difference"] < 1e-4 and row["difference_uncontested"] <= 1e-5 for row in table.rows)
    profile, *memory = table.notes
    assert "_log_softmax" in profile  # of the goal that is missed
    assert [note.split("allocates in ")[1][:5] for note in memory] == ["a CPU", "a GPU"]
    assert table.goals[3].goal == round(4 * 4 * 8 * 8732 * 200 / 1e6)
    assert table.goals[3].measured > 4 * 8 * 8732 * 199 / 1e6  # a GPU's code holds a number of every pair


def test_contested_objects_and_those_with_two_best_boxes_are_left_out():
    default_boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.6, 0.6, 0.2, 0.2], [0.8, 0.6, 0.2, 0.2]])
    boxes = torch.tensor(
        [
            [0.1, 0.1, 0.3, 0.3],  # asks for the first box
            [0.1, 0.1, 0.25, 0.3],  # asks for the first box too
            [0.5, 0.5, 0.72, 0.7],  # asks for the second
            [0.6, 0.5, 0.8, 0.7],  # halfway between the second and the third
        ]
    )
    assert without_contested(boxes[None], torch.tensor([[1, 2, 3, 4]]), default_boxes).tolist() == [[1, 0, 3, 0]]


def test_the_post_processing_finds_what_torchvisions_finds(monkeypatch):
    monkeypatch.setattr(post_process, "_CASES", ((5, 10, 0.0), (5, None, 0.0)))
    table = post_process.measure(QUICK)
    assert [row["same"] for row in table.rows] == ["yes", "yes"]
    assert (table.goals[-1].measured, table.goals[-1].verdict) == (0, "met")


@pytest.mark.parametrize(("column", "by"), [("labels", 1), ("scores", 1e-4), ("boxes", 0.01)])
def test_detections_with_another_label_score_or_box_are_others(column, by):
    found = {
        "labels": torch.tensor([3, 1]),
        "scores": torch.tensor([0.5, 0.5]),
        "boxes": torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40]]),
    }
    assert same_detections(found, {key: x.flip(0) for key, x in found.items()})  # equal scores in any order
    other = {**found, column: found[column].clone()}
    other[column].view(-1)[0] += by
    assert not same_detections(found, other)
    assert not same_detections(found, {key: x[:1] for key, x in found.items()})


def test_a_case_with_other_detections_misses_the_goal(monkeypatch):
    monkeypatch.setattr(post_process, "_CASES", ((5, 10, 0.0),))
    monkeypatch.setattr(post_process, "PostProcess", lambda boxes: PostProcess(boxes, max_detections=3))
    table = post_process.measure(QUICK)
    assert table.rows[0]["same"] == "NO"
    assert table.goals[-1].verdict == "not met"


def test_kernels_and_waits_stay_within_their_goals_at_every_batch_size(monkeypatch):
    monkeypatch.setattr(kernels, "_NUM_CLASSES", 21)
    table = kernels.measure(QUICK)
    verdicts = {goal.what: goal.verdict for goal in table.goals}
    looked_at_twice = {"post-processing, 200 objects: kernels", "post-processing, 200 objects: waits"}
    assert {what for what, verdict in verdicts.items() if verdict != "met"} == looked_at_twice
    assert len(verdicts) == 2 * 4
    assert all(goal.note.startswith("the same at every batch size") for goal in table.goals)
    assert table.rows[1]["torchvision_kernels"] > 3 * table.rows[1]["kernels"]


def test_torchvisions_post_processing_is_counted_as_it_goes_on_a_gpu():
    """PERFORMANCE.md: 4185 kernels at batch 8 with 81 classes."""
    default_boxes = make_default_boxes("ssd300_coco")
    peer, found = TorchvisionSSD(default_boxes, 81), trained_output(8, default_boxes, 81, 20)
    with torch.no_grad(), nms_as_on_a_gpu(), KernelCount() as count:
        peer.post_process(found)
    assert count.operations["nms"] == 8  # one an image
    assert count.kernels == pytest.approx(4185, abs=20)


def test_beyond_100_000_numbers_torchvision_suppresses_class_by_class_on_a_gpu_too():
    boxes, classes = torch.rand(25_001, 4), torch.arange(25_001) % 7
    with nms_as_on_a_gpu(), KernelCount() as count:
        torchvision.ops.boxes.batched_nms(boxes[:-1], boxes[:-1, 0], classes[:-1], 0.5)
    assert count.operations["nms"] == 1
    with nms_as_on_a_gpu(), KernelCount() as count:
        torchvision.ops.boxes.batched_nms(boxes, boxes[:, 0], classes, 0.5)
    assert count.operations["nms"] == 7


def test_torchvisions_loss_is_counted_without_making_its_targets():
    """PERFORMANCE.md: 2016 kernels at batch 32 with 81 classes, of which 62 or so an image; targets took 5 more."""
    default_boxes = make_default_boxes("ssd300_coco")
    boxes, labels = draw_targets(2, 81)
    targets, peer = torchvision_targets(boxes, labels), TorchvisionSSD(default_boxes, 81)
    assert [target["labels"].tolist() for target in targets] == [labels[0, :1].tolist(), labels[1, :2].tolist()]
    torch.testing.assert_close(targets[1]["boxes"], boxes[1, :2] * 300)
    raw = SSDOutput(*(x.requires_grad_() for x in untrained_output(2, 8732, 81)))
    with KernelCount() as count:
        torch.stack(list(peer.loss(raw, targets).values())).sum().backward()
    assert count.kernels == pytest.approx(2016 - 30 * 62, abs=5)


@pytest.fixture
def two_tables(monkeypatch):
    monkeypatch.setattr(l2_norm, "measure", lambda settings: Table("l2_norm", "A.", goals=[Goal("speed", 2, 1.5)]))
    monkeypatch.setattr(fold, "measure", lambda settings: torch.ones(2) @ torch.ones(3))


def test_tables_are_printed_and_written_and_put_into_a_page(two_tables, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- benchmark: begin -->\nold\n<!-- benchmark: end -->\nAfter.\n")
    assert main(["benchmark", "--only", "l2_norm", "--output", str(tmp_path / "out"), "--page", str(page)]) == 0
    line = "| speed | ≥ 2 × | 1.50 × | not met | |"
    assert line in capsys.readouterr().out
    assert line in page.read_text()
    assert "old" not in page.read_text()
    assert page.read_text().endswith("<!-- benchmark: end -->\nAfter.\n")
    written = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert written["tables"][0]["goals"][0]["verdict"] == "not met"
    assert written["about"]["threads"] == 1


def test_a_table_that_fails_is_named_at_the_end_and_the_others_are_written(two_tables, tmp_path, capsys):
    assert main(["benchmark", "--only", "fold", "l2_norm", "--output", str(tmp_path)]) == 2
    assert "could not be measured: fold" in capsys.readouterr().err
    tables = json.loads((tmp_path / "benchmark.json").read_text())["tables"]
    assert [table["failed"] for table in tables] == [True, False]


def test_a_page_without_marks_is_refused(two_tables, tmp_path, capsys):
    (tmp_path / "page.md").write_text("no marks")
    assert main(["benchmark", "--only", "l2_norm", "--page", str(tmp_path / "page.md")]) == 2
    assert "between which the tables go" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "l3_norm"], "--only: unknown table 'l3_norm'; without --gpu choose among: kernels, loss"),
        (["--only", "gpu_limits"], "--only: unknown table 'gpu_limits'; without --gpu choose among"),
        (["--gpu", "--only", "loss"], "--only: unknown table 'loss'; with --gpu choose among: gpu_limits"),
        (["--workers", "4"], "--workers: no chosen table looks at it; gpu_real_batches would"),
        (["--gpu", "--only", "gpu_kernels", "--workers", "4"], "--workers: no chosen table looks at it"),
        (["--gpu", "--workers", "-1"], "--workers: must be 0 or more; got -1"),
        (["--only", "loss", "--images", "."], "--images: no chosen table looks at it; pipeline, cached_images"),
        (["--gpu", "--page", "page.md"], "--page: takes the CPU's tables; with --gpu use --output"),
        (["--threads", "0"], "--threads: must be 1 or more; got 0"),
        (["--fast"], "unknown argument '--fast'"),
        (["--page", "nowhere.md"], "--page: nowhere.md is not there"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(words, message, capsys):
    assert main(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_tables_are_refused(capsys):
    assert main(["benchmark", "--gpu"]) == 2
    assert "PyTorch sees no GPU here" in capsys.readouterr().err


def test_only_chooses_among_the_gpus_tables_and_workers_reach_them(monkeypatch, capsys):
    plans, called = [], []

    def parts(plan):
        plans.append(plan)
        return {name: lambda name=name: called.append(name) or Table(name, "A.") for name in GPU_TABLES}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("benchmarks.command.machine", dict)
    monkeypatch.setattr(gpu, "gpu_parts", parts)
    only = ["gpu_l2_norm", "gpu_real_batches"]
    assert main(["benchmark", "--gpu", "--quick", "--workers", "3", "--only", *only]) == 0
    assert called == only
    assert (plans[0].workers, plans[0].batch_sizes) == (3, (8, 64))
    assert main(["benchmark", "--gpu"]) == 0
    assert called[2:] == list(GPU_TABLES)
    assert plans[1].workers == 16


def test_the_cpus_page_lists_the_gpus_goals_as_not_measured(capsys):
    assert main(["benchmark", "--only", "gpu_goals"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "| on a GPU, batch 64: training | ≥ 1400 images/s | – | not measured | no GPU; `--gpu` measures it |" in lines
    )
    assert sum("not measured" in line for line in lines) == 9


def test_a_training_step_is_measured_from_floats_and_lists_and_from_uint8(monkeypatch):
    pictures = []

    class Peer(torch.nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, images, targets):
            pictures.append((images[0].dtype, float(images[0].max()), sorted(targets[0])))
            return {"loss": self.weight * images[0].sum()}

    monkeypatch.setattr(training_step, "torchvision_detector", Peer)
    monkeypatch.setattr(training_step, "ssd300_vgg16", partial(ssd300_vgg16, width=0.02))
    table = training_step.measure(QUICK)
    assert [row["candidate"] for row in table.rows] == ["torchvision", "ours"]
    assert pictures[0] == (torch.float32, 1.0, ["boxes", "labels"])
    assert table.notes[0] == "Compiling is left out by --quick."


def test_compiling_is_timed_with_pytorchs_caches_off():
    import torch._inductor.config as inductor

    seen = []
    assert seconds_to_compile(lambda: seen.append(inductor.force_disable_caches) or time.sleep(0.05)) >= 0.05
    assert seen == [True]
    assert inductor.force_disable_caches is False
