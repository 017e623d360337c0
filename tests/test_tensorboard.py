"""What TensorBoard shows of runs: its own back end reads what real runs have written."""

from pathlib import Path
from typing import Any

import pytest
from commands import read, run_here, stop_at, train_command
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
from werkzeug.test import Client

from jaxft.training.event_log import read_log

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

RUNS = ("houlsby-0/tb", "houlsby-1/tb", "lora-0/tb", "lora-1/tb")
STATUSES = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]


@pytest.fixture(scope="module")
def runs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two methods, three epochs; those of LoRA were killed in the third."""
    workdir = tmp_path_factory.mktemp("runs")

    def seeds(method: str) -> list[str]:
        pattern = workdir / f"{method}-{{seed}}"
        overrides = ("--config.seeds=0,1", "--config.data.max_length=16", "--config.epochs=3")
        return train_command(tiny_checkpoint, pattern, *overrides, method=method)

    stop_at(17, workdir / "lora-1", seeds("lora"))
    assert "continuing" in run_here(seeds("lora"))
    run_here(seeds("houlsby"))
    return workdir


@pytest.fixture(scope="module")
def board(runs: Path) -> TBContext:
    """What TensorBoard has read."""
    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 0})
    multiplexer.AddRunsFromDirectory(str(runs))
    multiplexer.Reload()
    return TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(runs)))


@pytest.fixture(scope="module")
def experiment(board: TBContext) -> dict[str, Any]:
    """The settings and scores that the tab HPARAMS knows of."""
    app = HParamsPlugin(board).get_plugin_apps()["/experiment"]
    return Client(app).post(json={}).json


@pytest.fixture(scope="module")
def rows(board: TBContext, experiment: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of the tab HPARAMS, by name, as the page asks for them."""
    columns = [{"hparam": info["name"]} for info in experiment["hparamInfos"]]
    columns += [{"metric": info["name"]} for info in experiment["metricInfos"]]
    asked = {"allowedStatuses": STATUSES, "colParams": columns, "sliceSize": 100}
    app = HParamsPlugin(board).get_plugin_apps()["/session_groups"]
    groups = Client(app).post(json=asked).json["sessionGroups"]
    assert all(len(group["sessions"]) == 1 for group in groups)
    return {
        group["name"]: group["hparams"]
        | {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        for group in groups
    }


def test_each_run_is_one_row(rows: dict[str, dict[str, Any]]) -> None:
    assert sorted(rows) == list(RUNS)
    told = [(row["method"], row["seed"], row["lr"]) for _, row in sorted(rows.items())]
    assert told == [(m, s, lr) for m, lr in (("houlsby", 5e-4), ("lora", 1e-3)) for s in "01"]
    assert all(rows[name]["rank"] == 8 and "size" not in rows[name] for name in RUNS[2:])
    assert all(rows[name]["size"] == 64 and "rank" not in rows[name] for name in RUNS[:2])


def test_a_row_ends_with_the_results(runs: Path, rows: dict[str, dict[str, Any]]) -> None:
    for name, row in rows.items():
        results = read(runs / Path(name).parent / "results.json")
        assert row["Result/test_accuracy"] == pytest.approx(results["test"]["accuracy"])
        assert row["Result/test_macro_f1"] == pytest.approx(results["test"]["macro_f1"])
        assert row["Result/trained_parameters"] == results["parameters"]["trained"]


def test_the_columns_shown_first_tell_runs_apart_and_score_them(experiment: dict[str, Any]) -> None:
    """The page opens with five settings, and with the first five scores."""
    differing = [info["name"] for info in experiment["hparamInfos"] if info.get("differs")]
    assert differing == ["lr", "method", "seed"]
    assert {"rank", "size", "targets"} <= {info["name"] for info in experiment["hparamInfos"]}
    scores = [info["name"]["tag"] for info in experiment["metricInfos"][:5]]
    assert {"Result/test_accuracy", "Result/test_macro_f1"} < set(scores)
    assert all(tag.startswith("Result/") for tag in scores)


def test_curves_are_those_of_the_log_whether_killed_or_not(runs: Path, board: TBContext) -> None:
    scalars, context = ScalarsPlugin(board), RequestContext()
    assert sorted(scalars.index_impl(context, experiment="")) == list(RUNS)
    for name in RUNS:
        lines = read_log(runs / Path(name).parent / "metrics.jsonl")
        for group, value in (("train", "loss"), ("dev", "macro_f1")):
            points, _ = scalars.scalars_impl(context, f"{group}/{value}", name, "", "")
            logged = [(line["step"], line[group][value]) for line in lines if group in line]
            assert [step for _, step, _ in points] == [step for step, _ in logged]
            assert [x for *_, x in points] == pytest.approx([x for _, x in logged])
