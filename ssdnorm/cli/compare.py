"""Compare norm choices: train every arm with every seed, and say how they differ.

examples:
  ssdnorm compare --config compare_quickstart --output runs/cmp --jobs 2
  ssdnorm compare --config compare_bccd --output runs/bccd --base.data.train.root data/BCCD
  ssdnorm compare --config compare_quickstart --output runs/cmp --no-training        # only the report
  ssdnorm compare --config compare_voc0712 --output runs/voc --cluster slurm --slurm.partition gpu --slurm.gpus 1
  ssdnorm compare --config compare_bccd --output runs/bccd --shard 2/5                # a fifth of the runs

Trains every arm with every seed (and learning rate), each in a run folder below runs/cmp/runs, then writes report.html,
results.json, results.csv, table.md and figures/. Started again, it skips finished runs and resumes the others. A key
of the base config can be set for all arms: --base.training.max_steps 100. --plan trains nothing: from a scatter over
seeds (--plan 0.012) or an earlier comparison (--plan runs/old) it says what numbers of seeds can show, and their time.

On Slurm every run is a task of a job array; what it asks for: --slurm.partition, gpus, cpus, memory (16G), minutes (of
a task, which is queued again until its run is done), parallel (runs at once), account, constraint, or any option of
sbatch (--slurm.mail-type END). Ctrl-C leaves the jobs to Slurm; the last one writes the report.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssdnorm.cli.checks import given_path, one_or_more, output_folder
from ssdnorm.compare.run_process import without_job
from ssdnorm.files import remove_unfinished, write_json, write_text
from ssdnorm.ownership import owned_folder

if TYPE_CHECKING:
    from ssdnorm.compare.plan import Plan
    from ssdnorm.compare.slurm_options import SlurmOptions
    from ssdnorm.data.dataset import DetectionDataset

log = logging.getLogger("ssdnorm.compare")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; keys of the base config come on top."""
    parser.add_argument("--config", required=True, type=given_path, help="YAML file; see configs/compare_*.yaml")
    parser.add_argument("--output", type=output_folder, help="folder of the comparison; new, or one to continue")
    parser.add_argument("--seeds", help="in place of the file's, such as 0-9; adds seeds at a declared look")
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--plan",
        metavar="SCATTER|FOLDER",
        help="train nothing; standard deviation over seeds, or an earlier comparison",
    )
    one.add_argument("--watch", action="store_true", help="only show the runs that Slurm has, until they have ended")
    one.add_argument("--shard", metavar="I/N", help="make a fixed Nth of the runs, and no report")
    one.add_argument("--no-training", action="store_true", help="only report on the runs in --output")
    parser.add_argument("--jobs", type=one_or_more, help="runs at once; they share the cores and GPUs (default 1)")
    parser.add_argument("--cluster", choices=("local", "slurm"), default="local", help="where the runs are made")
    parser.add_argument("--follow-up", action="store_true", help=argparse.SUPPRESS)  # a job after those of a stage


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Check everything, train what is missing, report."""
    _refuse_jobs_and_slurm(arguments)
    for name in os.environ.keys() - without_job(os.environ).keys():
        del os.environ[name]

    # imported here, so that --help does not wait for them
    from ssdnorm.build import build_datasets
    from ssdnorm.compare import cluster
    from ssdnorm.compare.analysis import choose_rates
    from ssdnorm.compare.launcher import check_folders
    from ssdnorm.compare.looks import second_look
    from ssdnorm.compare.plan import parse_shard, read_plan
    from ssdnorm.compare.planning import plan_markdown, read_scatter
    from ssdnorm.compare.run_folders import state_of
    from ssdnorm.compare.slurm_options import read_options, split_options

    given, rest = split_options(rest)
    shard = None if arguments.shard is None else parse_shard(arguments.shard)
    if given and arguments.cluster != "slurm":
        raise ValueError(f"command line: --slurm.{next(iter(given))}: is for --cluster slurm")
    plan = read_plan(arguments.config, rest, seeds=arguments.seeds)
    if arguments.plan is not None:
        if arguments.output is not None or arguments.seeds is not None:
            raise ValueError("--plan: trains and writes nothing; leave --output and --seeds out")
        print(plan_markdown(plan, read_scatter(arguments.plan, plan.file.metric), num_parallel=arguments.jobs or 1))
        return
    if arguments.output is None:
        raise ValueError("--output: give the comparison's folder, or --plan to train nothing")
    root: Path = arguments.output
    if arguments.watch:
        cluster.watch(lambda: plan.jobs(*choose_rates(plan, root)), root)
        return
    options = read_options(given, plan) if arguments.cluster == "slurm" else None
    datasets = build_datasets(plan.base)
    if "validation" in datasets:
        _refuse_shared_images(datasets["validation"], datasets["test"])
    second_look(plan.file, root)  # refuses seeds that no look was declared for
    rates, lrs = choose_rates(plan, root)
    check_folders(plan.jobs(rates, lrs), root)
    log.info("%d arms × %d seeds", len(plan.arms), len(plan.file.seeds))
    if options is not None and _on_slurm(plan, root, options, follow_up=arguments.follow_up):
        if not arguments.follow_up:
            _print_report(root)
        return
    if shard is not None:
        _make_runs(plan, root, num_parallel=arguments.jobs or 1, shard=shard)
        log.info("shard %d/%d has ended; the report: --no-training, on the folders of all shards together", *shard)
        return
    with owned_folder(root, further_patience=0.0 if options is None else cluster.TURN_SECONDS):
        if arguments.no_training:
            if not any(state_of(job, root) in ("finished", "diverged") for job in plan.jobs(rates, lrs)):
                raise ValueError(f"--no-training: {root} holds no finished run of {arguments.config}")
        elif options is None:
            _make_runs(plan, root, num_parallel=arguments.jobs or 1)
        _report(plan, root, datasets)


def _report(plan: Plan, root: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    """Write the report on the runs in a folder, which this process owns, and print what it says in words."""
    from ssdnorm.compare.analysis import analyse
    from ssdnorm.compare.report import write_report
    from ssdnorm.compare.tables import metrics_markdown, table_markdown, write_csv
    from ssdnorm.engine.loggers import log_report

    remove_unfinished(root, root / "figures")
    results = analyse(plan, root, datasets)
    write_json(root / "results.json", dataclasses.asdict(results))
    write_csv(results, root / "results.csv")
    write_text(root / "table.md", f"{table_markdown(results)}\n{metrics_markdown(results)}")
    write_report(results, root, datasets["test"], root / "report.html")
    metrics = {f"{arm.name}/{name}": each.mean for arm in results.arms for name, each in arm.metrics.items()}
    try:
        _print_report(root)
    finally:  # also if runs have no result
        files = [root / "report.html", root / "results.json"]
        log_report(plan.base.runtime.loggers, root, plan.file.title, metrics, files)


def _print_report(root: Path) -> None:
    """Print what the report says in words; raises ``ValueError`` if runs have no result."""
    results = json.loads((root / "results.json").read_text(encoding="utf-8"))
    print((root / "table.md").read_text(encoding="utf-8").rpartition("\n\n| arm |")[0])  # without all metrics
    print("\n" + "\n".join(each["sentence"] for each in (*results["arms"], *results["contrasts"])))
    print(f"\n{results['answer']}\n\nreport: {root / 'report.html'}")
    runs = [run for arm in results["arms"] for run in arm["runs"]]
    lost = [run for run in runs if run["status"] in ("failed", "missing")]
    if lost:
        why = lost[0]["reason"] or "did not run"
        raise ValueError(f"{len(lost)} of {len(runs)} runs have no result; the first: {lost[0]['folder']}: {why}")


def _refuse_jobs_and_slurm(arguments: argparse.Namespace) -> None:
    """Refuse --jobs and --cluster slurm where they would do nothing."""
    only = next((name for name in ("plan", "watch", "shard", "no_training") if getattr(arguments, name)), "")
    kind = only.replace("_", "-")
    if arguments.cluster == "slurm" and only in ("plan", "shard", "no_training"):
        raise ValueError(f"--{kind} and --cluster: choose one of the two")
    if arguments.jobs is not None and only in ("watch", "no_training"):
        raise ValueError(f"--jobs: not with --{kind}")
    if arguments.jobs is not None and arguments.cluster == "slurm":
        raise ValueError("--jobs: not with --cluster; use --slurm.parallel")


def _make_runs(plan: Plan, root: Path, *, num_parallel: int, shard: tuple[int, int] = (1, 1)) -> None:
    """Make the runs that are missing, or those of a shard: the ones that choose learning rates, then the others."""
    from ssdnorm.compare.launcher import launch, stages
    from ssdnorm.compare.plan import shard_of
    from ssdnorm.compare.run_folders import state_of

    _write_plan(plan, root)
    for jobs, later in stages(plan, root):
        launch(shard_of(jobs, *shard), root, num_parallel=num_parallel, later=shard_of(later, *shard))
        others = [job for job in jobs if state_of(job, root) == "missing"] if shard != (1, 1) else []
        if any(job.seed in plan.file.choosing_seeds for job in others):
            log.info(
                "what decides the learning rates is not complete here: copy the run folders of all shards together, "
                "then start every shard once more"
            )
            break


def _on_slurm(plan: Plan, root: Path, options: SlurmOptions, *, follow_up: bool) -> bool:
    """Submit what is missing and watch it; whether the report is left to the job that follows, or made by it."""
    from ssdnorm.compare import cluster
    from ssdnorm.compare.analysis import choose_rates
    from ssdnorm.compare.launcher import stages

    with owned_folder(root, further_patience=cluster.TURN_SECONDS):
        _write_plan(plan, root)
        under_way = cluster.submit_next(stages(plan, root), root, options, again=not follow_up)
    if not under_way or follow_up:
        return under_way
    before = _written_at(root / "results.json")
    try:
        cluster.watch(lambda: plan.jobs(*choose_rates(plan, root)), root)
    except KeyboardInterrupt:
        log.info("the jobs go on; --watch shows them. To cancel them: scancel --name=%s", cluster.job_name(root))
        raise
    with owned_folder(root, further_patience=cluster.TURN_SECONDS):
        cluster.record_lost(plan.jobs(*choose_rates(plan, root)), root)
    return _written_at(root / "results.json") != before


def _written_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _write_plan(plan: Plan, root: Path) -> None:
    import yaml

    write_text(root / "comparison.yaml", yaml.safe_dump(plan.content, sort_keys=False, width=120))


def _refuse_shared_images(validation: DetectionDataset, test: DetectionDataset) -> None:
    """Keep test images out of the choice of learning rates."""

    def images(dataset: DetectionDataset) -> list[str]:
        places = range(len(dataset))
        return [os.path.abspath(path) if (path := dataset.image_path(i)) else dataset.image_name(i) for i in places]

    known = set(images(test))
    if shared := [name for name in images(validation) if name in known]:
        raise ValueError(
            f"base.data.validation: {len(shared)} of {len(validation)} images are test images, too; the first: "
            f"{shared[0]}"
        )
