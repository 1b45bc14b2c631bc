"""Loggers: what is refused before training, and what trackers hold after a run, a resumed one and a comparison."""

import json
import struct

import pytest
import yaml
from pytorch_lightning.loggers import CSVLogger

from ssdnorm.cli import main
from ssdnorm.config_file import differences_of_run
from ssdnorm.engine.loggers import IDS_FILE, check_loggers, make_loggers, named
from tests.cli.test_compare import TINY
from tests.small_training import rows, tiny_config, train

WANDB = {"kind": "wandb", "project": "norms", "offline": True}


class OwnLogger(CSVLogger):
    """Somebody's own."""

    def __init__(self, save_dir, *, flavour="plain"):
        super().__init__(save_dir, name=f"own_{flavour}")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["tensorbord"], "runtime.loggers.0: unknown logger 'tensorbord'; .*Did you mean 'tensorboard'?"),
        ([{"project": "x"}], "runtime.loggers.0: unknown logger None; choose one of: tensorboard, csv, wandb, mlflow"),
        (["csv", "csv"], "runtime.loggers: must be different"),
    ],
)
def test_an_unknown_logger_is_refused_with_the_config(specs, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(runtime={"loggers": specs})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "wandb", "projekt": "x"}, r"wandb: unknown option 'projekt'; .*Did you mean 'project'\?"),
        ({"kind": "wandb", "id": "x"}, "wandb: unknown option 'id'"),
        ({"kind": "mlflow", "uri": "x"}, r"mlflow: unknown option 'uri'; .*tracking_uri"),
        ({"kind": "tensorboard", "max_queue": 3, "flush": 1}, "tensorboard: unknown option 'flush'; .*flush_secs"),
        ({"kind": "tests.engine.test_loggers:OwnLogger", "flavor": 1}, r"unknown option 'flavor'; .*mean 'flavour'\?"),
        ("tests.engine.test_loggers:Nothing", "cannot import 'tests.engine.test_loggers:Nothing'"),
        ("tests.engine.test_loggers:WANDB", "is no class of Lightning's loggers"),
    ],
)
def test_a_logger_that_cannot_be_made_is_refused_before_training(spec, message):
    with pytest.raises(ValueError, match=f"runtime.loggers: .*{message}"):
        check_loggers(["tensorboard", spec])


def test_a_missing_package_is_refused_with_what_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ssdnorm.engine.loggers.find_spec", lambda name: None)
    assert train(tmp_path / "run", runtime={"loggers": ["mlflow"]}) == 2
    said = "runtime.loggers: mlflow: is not installed; pip install 'ssdnorm[mlflow]'"
    assert capsys.readouterr().err.splitlines()[-1].endswith(said)
    assert not (tmp_path / "run").exists()


def test_a_server_that_cannot_be_used_is_one_line(tmp_path, capsys):
    spec = {"kind": "mlflow", "tracking_uri": "gopher://nowhere"}
    assert train(tmp_path / "run", runtime={"loggers": [spec]}) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: runtime.loggers: mlflow: ")


def tracker(uri):
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def records(folder):
    """What Weights & Biases wrote offline, a list per start."""
    paths = folder.glob("wandb/offline-run-*/*.wandb")
    return [list(read_log(path.read_bytes())) for path in sorted(paths, key=lambda path: path.stat().st_mtime)]


def read_log(content):
    """The records of a log in LevelDB's format: chunks in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record  # seconds that other tests do not need

    at, record = 7, b""
    while at < len(content):
        if (left := -at % 32768) < 7 and left:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last chunk
            yield Record.FromString(record)
            record = b""


def numbers(part):
    """Name → values of the metrics in one part."""
    found = {}
    for record in part:
        for item in record.history.item:
            found.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
    return found


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_file_of_ids_is_named(tmp_path, content):
    (tmp_path / IDS_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"loggers\.json: damaged; delete it to begin new runs there: "):
        make_loggers(["csv"], tmp_path, settings={})


@pytest.mark.slow
def test_a_run_is_logged_everywhere_and_resumed_under_its_ids(tmp_path):
    run, uri = tmp_path / "run", f"file:{tmp_path / 'mlflow'}"
    own = {"kind": "tests.engine.test_loggers:OwnLogger", "flavour": "salted"}
    loggers = ["csv", WANDB, {"kind": "mlflow", "tracking_uri": uri}, own]
    assert train(run, runtime={"loggers": loggers}) == 0
    ids = json.loads((run / IDS_FILE).read_text())
    assert (run / "csv" / "version_0" / "metrics.csv").exists()
    assert (run / "own_salted" / "version_0" / "metrics.csv").exists()
    assert not (run / "tensorboard").exists()
    (run / "result.json").unlink()
    assert train(run, "--resume", "--training.max_steps", "3", runtime={"loggers": loggers}) == 0
    assert json.loads((run / IDS_FILE).read_text()) == ids
    wandb_id, mlflow_id = ids.values()
    logged = [float(row["loss"]) for row in rows(run) if row["loss"]]

    client = tracker(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "ssdnorm"]
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert (tracked.info.run_id, tracked.info.run_name, tracked.info.status) == (mlflow_id, "run", "FINISHED")
    history = client.get_metric_history(mlflow_id, "train/loss")
    assert [point.step for point in history] == [0, 1, 2]  # steps before the reading
    assert [point.value for point in history] == pytest.approx(logged, rel=1e-4)
    assert tracked.data.params["training/max_steps"] == "2"
    assert tracked.data.metrics["test/AP"] == json.loads((run / "result.json").read_text())["metrics"]["AP"]

    first, second = records(run)
    assert {record.run.run_id for part in (first, second) for record in part if record.run.run_id} == {wandb_id}
    assert numbers(first)["train/loss"] + numbers(second)["train/loss"] == pytest.approx(logged, rel=1e-4)
    assert "test/AP" in numbers(second)


def test_loggers_are_no_part_of_what_a_run_is():
    before, after = tiny_config(), tiny_config(runtime={"loggers": [WANDB]})
    assert before.model_dump() != after.model_dump()
    assert differences_of_run(before, after) == []


def test_names_of_a_comparison_give_way_to_those_of_the_spec():
    labels = {"group": "norms", "arm": "l2_norm", "seed": 1}
    wandb, mlflow = named([{"kind": "wandb", "group": "mine", "config": {"lab": 3}}, "mlflow"], labels)
    config = {"arm": "l2_norm", "seed": 1, "lab": 3}
    assert wandb == {"kind": "wandb", "group": "mine", "name": "arm l2_norm seed 1", "config": config}
    tags = {"group": "norms", "arm": "l2_norm", "seed": "1"}
    assert mlflow == {"kind": "mlflow", "run_name": "arm l2_norm seed 1", "tags": tags}
    assert named(["tensorboard"], labels) == ["tensorboard"]


@pytest.mark.slow
def test_a_comparison_is_a_group_of_runs_and_its_report_is_there(tmp_path):
    uri, root = f"file:{tmp_path / 'mlflow'}", tmp_path / "cmp"
    runtime = {**TINY["base"]["runtime"], "loggers": [WANDB, {"kind": "mlflow", "tracking_uri": uri}]}
    content = {**TINY, "title": "Twins", "seeds": [4], "base": {**TINY["base"], "runtime": runtime}}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(content))
    words = ["compare", "--config", str(tmp_path / "compare.yaml"), "--output", str(root)]
    assert main(words) == 0
    assert main([*words, "--no-training"]) == 0  # into the same report

    client = tracker(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "ssdnorm"]
    tracked = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    twin = "arm twin seed 4 lr 0.004"
    assert tracked.keys() == {twin, "arm l2_norm seed 4 lr 0.004", "report of all arms"}
    labels = {"group": "Twins", "arm": "twin", "seed": "4", "lr": "0.004"}
    assert labels.items() <= tracked[twin].data.tags.items()
    arms = {arm["name"]: arm for arm in json.loads((root / "results.json").read_text())["arms"]}
    report = tracked["report of all arms"]
    assert report.data.metrics["twin/AP"] == arms["twin"]["metrics"]["AP"]["mean"]
    names = {file.path for file in client.list_artifacts(report.info.run_id)}
    assert names == {"report.html", "results.json"}

    (run,) = records(next(root.glob("runs/twin/*")))
    (begun,) = [record.run for record in run if record.run.run_id]
    assert (begun.run_group, begun.display_name) == ("Twins", twin)
    first, second = records(root)
    assert {record.run.run_id for record in (*first, *second) if record.run.run_id} == {begun_id(first)}
    assert any(record.artifact.name == "report" for record in first)


def begun_id(part):
    return next(record.run.run_id for record in part if record.run.run_id)
