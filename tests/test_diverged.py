"""A run that becomes NaN says where, is never the best, and enters no mean."""

import csv
import json
import signal
import sys
from pathlib import Path

import pytest
from commands import read, rows_of, run_here, stop_at, train_command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

RUNAWAY = (
    *("--config.optim.learning_rate=1e30", "--config.optim.clip=0"),
    "--config.optim.warmup=0.5",
)


def refuse(name: str) -> None:
    raise AssertionError(f"not JSON: {name}")


@pytest.fixture(scope="module")
def diverged(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    workdir = tmp_path_factory.mktemp("runs") / "diverged"
    return workdir, run_here(train_command(tiny_checkpoint, workdir, *RUNAWAY, "--config.seed=3"))


def test_it_says_at_which_step_and_batch_and_stops(diverged: tuple[Path, str]) -> None:
    workdir, printed = diverged
    results = read(workdir / "results.json")
    found = results["diverged"]
    assert found["epoch"] == 1
    assert 1 <= found["step"] == found["batch"] <= 8
    assert len(found["examples"]) == 16
    assert max(found["examples"]) < 120
    where = f"DIVERGED at step {found['step']} (epoch 1, batch {found['batch']})"
    assert printed.count(where) == 2  # as it happens, and with the result
    # The steps before it were finite; there is no point in more epochs.
    assert [entry["epoch"] for entry in results["history"]] == [1]
    assert results["best_epoch"] is None
    assert (workdir / "DONE").exists()
    assert "Traceback" not in printed


def test_stopped_in_that_epoch_it_is_continued_to_the_same_end(
    diverged: tuple[Path, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command = train_command(tiny_checkpoint, tmp_path / "run", *RUNAWAY, "--config.seed=3")
    command += ["--config.save_every=1", "--config.batch_size=1"]
    assert stop_at(3, tmp_path / "run", command, signal.SIGTERM) == 143
    record = read(sorted((tmp_path / "run" / "checkpoints").glob("*/record/metadata"))[-1])
    assert record["diverged"], "it was stopped before it diverged"
    printed = run_here(command)
    results = read(tmp_path / "run" / "results.json")
    assert "DIVERGED at step" in printed
    assert [entry["epoch"] for entry in results["history"]] == [1]
    assert results["history"][0]["step"] == 120
    assert results["best_epoch"] is None


def test_its_scores_are_none_and_its_files_are_json(diverged: tuple[Path, str]) -> None:
    workdir, _ = diverged
    results = read(workdir / "results.json")
    for scores in (results["test"], results["dev"], results["test_unseen"]):
        assert scores["finite"] is False
        for name in ("accuracy", "micro_f1", "macro_f1", "loss", "confusion"):
            assert scores[name] is None
        assert scores["collapsed"] is False
    for name in ("predictions_test.jsonl", "metrics.jsonl", "results.json"):
        text = (workdir / name).read_text()
        for line in [text] if name.endswith(".json") else text.splitlines():
            json.loads(line, parse_constant=refuse)
    for row in rows_of(workdir / "predictions_test.jsonl"):
        assert row["prediction"] is None
        assert set(row["probabilities"].values()) == {None}
    assert "DIVERGED at step" in (workdir / "README.md").read_text()


def test_beside_it_another_run_goes_on_and_the_report_counts_that_one_alone(
    diverged: tuple[Path, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    rates = ("--config.optim.clip=0", "--config.optim.learning_rates=1e-3,1e30")
    printed = run_here(train_command(tiny_checkpoint, tmp_path / "two", *rates))
    sound, lost = (tmp_path / "two" / f"lr-{rate}" for rate in ("0.001", "1e+30"))
    assert f"{'lr 1e+30':<11}    DIVERGED" in printed or "DIVERGED at step" in printed
    first, second = read(sound / "results.json"), read(lost / "results.json")
    assert first["diverged"] is None
    assert [entry["epoch"] for entry in first["history"]] == [1, 2, 3, 4]
    assert first["test"]["finite"]
    assert second["diverged"]["epoch"] >= 1
    # A NaN epoch is never the best, not even of equals.
    best, history = second["best_epoch"], second["history"]
    assert best is None or history[best - 1]["dev"]["finite"]

    report = [sys.executable, "-m", "jaxft.report", str(tmp_path), str(diverged[0])]
    printed = run_here([*report, f"--output={tmp_path / 'report'}"])
    assert "Traceback" not in printed
    for text in (printed, (tmp_path / "report" / "report.md").read_text()):
        for path in (lost, diverged[0]):
            assert f"Diverged, in no mean and no test: {path}" in text
    lines = csv.DictReader((tmp_path / "report" / "report.csv").read_text().splitlines())
    counted = {line["diverged"]: line for line in lines}
    assert counted["1"]["n"] == "0"
    assert counted["1"]["test_accuracy_mean"] == ""
    assert float(counted["0"]["test_accuracy_mean"]) == first["test"]["accuracy"]
