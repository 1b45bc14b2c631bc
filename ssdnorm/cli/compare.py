"""Compare norm choices: train every arm with every seed, and say how they differ.

examples:
  ssdnorm compare --config compare_quickstart --output runs/cmp --jobs 2
  ssdnorm compare --config compare_bccd --output runs/bccd --base.data.train.root data/BCCD
  ssdnorm compare --config compare_quickstart --output runs/cmp --no-training        # only the report

Trains every arm with every seed (and learning rate), each in a run folder below runs/cmp/runs, then writes report.html,
results.json, results.csv, table.md and figures/. Started again, it skips finished runs and resumes the others. A key
of the base config can be set for all arms: --base.training.max_steps 100. --plan trains nothing: from a scatter over
seeds (--plan 0.012) or an earlier comparison (--plan runs/old) it says what numbers of seeds can show, and their time.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssdnorm.files import remove_unfinished, write_json, write_text
from ssdnorm.ownership import owned_folder

if TYPE_CHECKING:
    from ssdnorm.compare.plan import Plan
    from ssdnorm.data.dataset import DetectionDataset

log = logging.getLogger("ssdnorm.compare")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; keys of the base config come on top."""
    parser.add_argument("--config", required=True, type=Path, help="YAML file; see configs/compare_*.yaml")
    parser.add_argument("--output", type=Path, help="folder of the comparison; new, or one to continue")
    parser.add_argument("--seeds", help="in place of the file's, such as 0-9; adds seeds at a declared look")
    parser.add_argument(
        "--plan",
        metavar="SCATTER|FOLDER",
        help="train nothing; standard deviation over seeds, or an earlier comparison",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; they share the cores and GPUs (default 1)")
    parser.add_argument("--no-training", action="store_true", help="only report on the runs in --output")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Check everything, train what is missing, report."""
    if arguments.jobs < 1:
        raise ValueError(f"--jobs: must be 1 or more; got {arguments.jobs}")

    # imported here, so that --help does not wait for them
    from ssdnorm.build import build_dataset
    from ssdnorm.compare.analysis import analyse, choose_rates
    from ssdnorm.compare.launcher import check_folders
    from ssdnorm.compare.looks import second_look
    from ssdnorm.compare.plan import read_plan
    from ssdnorm.compare.planning import plan_markdown, read_scatter
    from ssdnorm.compare.report import write_report
    from ssdnorm.compare.run_folders import state_of
    from ssdnorm.compare.tables import metrics_markdown, table_markdown, write_csv
    from ssdnorm.engine.loggers import log_report

    plan = read_plan(arguments.config, rest, seeds=arguments.seeds)
    if arguments.plan is not None:
        if arguments.output is not None or arguments.seeds is not None or arguments.no_training:
            raise ValueError("--plan: trains and writes nothing; leave --output, --seeds and --no-training out")
        print(plan_markdown(plan, read_scatter(arguments.plan, plan.file.metric), num_parallel=arguments.jobs))
        return
    if arguments.output is None:
        raise ValueError("--output: give the comparison's folder, or --plan to train nothing")
    root: Path = arguments.output
    if root.exists() and not root.is_dir():
        raise ValueError(f"--output: {root} is a file; a folder is needed")
    train_set = build_dataset(plan.base, "train")
    test_set = build_dataset(plan.base, "test", class_names=train_set.class_names)
    datasets = {"train": train_set, "test": test_set}
    if plan.base.data.validation is not None:
        datasets["validation"] = build_dataset(plan.base, "validation", class_names=train_set.class_names)
        _refuse_shared_images(datasets["validation"], test_set)
    second_look(plan.file, root)  # refuses seeds that no look was declared for
    rates, lrs = choose_rates(plan, root)
    check_folders(plan.jobs(lrs, rates), root)
    log.info("%d arms × %d seeds", len(plan.arms), len(plan.file.seeds))
    with owned_folder(root):
        remove_unfinished(root, root / "figures")
        if arguments.no_training:
            if not any(state_of(job, root) in ("finished", "diverged") for job in plan.jobs(lrs, rates)):
                raise ValueError(f"--no-training: {root} holds no finished run of {arguments.config}")
        else:
            _make_runs(plan, root, num_parallel=arguments.jobs)
        results = analyse(plan, root, datasets)
        write_json(root / "results.json", dataclasses.asdict(results))
        write_csv(results, root / "results.csv")
        write_text(root / "table.md", f"{table_markdown(results)}\n{metrics_markdown(results)}")
        write_report(results, root, test_set, root / "report.html")
    print(table_markdown(results))
    print("\n".join([arm.sentence for arm in results.arms] + [each.sentence for each in results.contrasts]))
    print(f"\n{results.answer}\n\nreport: {root / 'report.html'}")
    metrics = {f"{arm.name}/{name}": each.mean for arm in results.arms for name, each in arm.metrics.items()}
    files = [root / "report.html", root / "results.json"]
    log_report(plan.base.runtime.loggers, root, plan.file.title, metrics, files)
    runs = [run for arm in results.arms for run in arm.runs]
    lost = [run for run in runs if run.status in ("failed", "missing")]
    if lost:
        why = lost[0].reason or "did not run"
        raise ValueError(f"{len(lost)} of {len(runs)} runs have no result; the first: {lost[0].folder}: {why}")


def _make_runs(plan: Plan, root: Path, *, num_parallel: int) -> None:
    """Make the runs that are missing: those that choose learning rates, then the others."""
    import yaml

    from ssdnorm.compare.analysis import choose_rates
    from ssdnorm.compare.launcher import launch
    from ssdnorm.compare.run_folders import state_of

    write_text(root / "comparison.yaml", yaml.safe_dump(plan.content, sort_keys=False, width=120))
    tried, (rates, lrs) = None, choose_rates(plan, root)
    while rates != tried:  # lists of rates grow while the best is at their edge
        tried, first = rates, plan.first_jobs(rates)
        launch(first, root, num_parallel=num_parallel, later=plan.jobs(lrs, rates)[len(first) :])
        rates, lrs = choose_rates(plan, root)
    if choosing := plan.choosing_jobs(rates):
        failed = {job.arm for job in choosing if state_of(job, root) == "failed"}
        if failed:
            log.warning("a run that decides a learning rate failed; no seeds of %s", ", ".join(sorted(failed)))
        jobs = [job for job in plan.jobs(lrs, rates) if job.arm not in failed]
        launch(jobs, root, num_parallel=num_parallel)


def _refuse_shared_images(validation: DetectionDataset, test: DetectionDataset) -> None:
    """Keep test images out of the choice of learning rates."""
    known = {_identity(test, i) for i in range(len(test))}
    shared = [name for i in range(len(validation)) if (name := _identity(validation, i)) in known]
    if shared:
        raise ValueError(
            f"base.data.validation: {len(shared)} of {len(validation)} images are test images, too; the first: "
            f"{shared[0]}"
        )


def _identity(dataset: DetectionDataset, index: int) -> str:
    path = dataset.image_path(index)
    return os.path.abspath(path) if path else dataset.image_name(index)
