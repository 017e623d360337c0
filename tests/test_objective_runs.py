"""Runs of every objective, through the Python interface: train, evaluate, resume, predict, report.

One objective is a file outside of the package.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxft
from jaxft import predict, report
from jaxft.errors import InputError
from jaxft.training import objectives
from jaxft.training.event_log import read_log
from jaxft.training.loop import InterruptedRunError
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

WORDS = {"food": "pizza soup", "music": "piano song", "sport": "ball race"}
Rows = list[dict[str, Any]]


def topic_rows(count: int, seed: int) -> Rows:
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        labels = [name for name in WORDS if rng.random() < 0.4]
        words = [rng.choice(WORDS[name].split()) for name in labels]
        rows.append({"text": " ".join([*words, "today", str(i)]), "label": labels})
    return rows


def score_rows(count: int, seed: int, label: Any = float) -> Rows:
    rng = random.Random(seed)
    levels = [rng.randint(0, 3) for _ in range(count)]
    texts = [" ".join(["good"] * n + ["bad"] * (3 - n) + [str(i)]) for i, n in enumerate(levels)]
    return [{"text": text, "label": label(n)} for text, n in zip(texts, levels, strict=True)]


def write(folder: Path, make: Any) -> Path:
    folder.mkdir()
    for split, count, seed in (("train", 64, 1), ("dev", 24, 2), ("test", 30, 3)):
        lines = [json.dumps(row) + "\n" for row in make(count, seed)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def finetune(data: Path, checkpoint: Path, workdir: Path, **fields: Any) -> list[jaxft.Run]:
    fixed = {
        "max_length": 16,
        "batch_size": 16,
        "epochs": 3,
        "learning_rate": 3e-3,
        "seeds": (0, 1),
    }
    return jaxft.finetune_many(
        task="custom",
        model=str(checkpoint),
        method="lora",
        dir=str(data),
        **{"workdir": workdir, **fixed, **fields},
    )


def read(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"not JSON: {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def lines_of(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def topics(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[jaxft.Run]]:
    """The data of a multi-label task, and two seeds that trained together on them."""
    folder = tmp_path_factory.mktemp("topics")
    data = write(folder / "data", topic_rows)
    return data, finetune(
        data, tiny_checkpoint, folder / "runs", class_weights="balanced", seeds=(0, 1)
    )


@pytest.fixture(scope="module")
def scores(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[jaxft.Run]]:
    """The data of a regression task, and a run on them."""
    folder = tmp_path_factory.mktemp("scores")
    data = write(folder / "data", score_rows)
    return data, finetune(
        data, tiny_checkpoint, folder / "{seed}", objective="regression", seeds=(0,)
    )


def assert_same_scores(found: dict[str, Any], of_run: dict[str, Any]) -> None:
    """A run evaluates with several texts in a row, a classifier with one: that rounds otherwise."""
    assert found["loss"] == pytest.approx(of_run["loss"], rel=1e-6)
    assert found | {"loss": 0} == of_run | {"loss": 0}


def test_lists_of_classes_make_a_multi_label_run(topics: tuple[Path, list[jaxft.Run]]) -> None:
    data, (run, other) = topics
    results = read(run.directory / "results.json")
    assert results["objective"] == "multi_label"
    assert results["metric"] == "macro_f1"
    assert results["labels"] == ["food", "music", "sport"]
    assert "objective multi_label, because a label is a list of classes" in results["data"]["notes"]
    assert results["test"]["per_class"].keys() == WORDS.keys()
    best = max(results["history"], key=lambda e: (e["dev"]["macro_f1"], e["epoch"]))
    assert results["selected_epoch"] == best["epoch"]
    assert results["test"] != read(other.directory / "results.json")["test"]
    assert {path.name for path in (run.directory / "plots").iterdir()} == {
        *("learning_curves.png", "labels_test.png"),
    }
    dev = [line["dev"] for line in read_log(run.directory / "metrics.jsonl") if "dev" in line]
    assert dev[0].keys() == {"loss", "subset_accuracy", "micro_f1", "macro_f1"}

    texts = [row["text"] for row in lines_of(data / "test.jsonl")]
    rows = lines_of(run.directory / "predictions_test.jsonl")
    predictions = run.classifier.predict(texts)
    assert isinstance(predictions[0], jaxft.MultiLabelPrediction)
    for row, found in zip(rows, predictions, strict=True):
        assert list(found.labels) == row["prediction"]
        assert row["prediction"] == [n for n, p in row["probabilities"].items() if p > 0.5]
    assert_same_scores(run.classifier.evaluate(data / "test.jsonl"), results["test"])
    with pytest.raises(InputError, match="unknown value 'travel'"):
        run.classifier.evaluate([("a text", ["travel"])])


def test_numbers_make_a_regression_run(
    scores: tuple[Path, list[jaxft.Run]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, (run,) = scores
    results = read(run.directory / "results.json")
    assert (results["objective"], results["metric"]) == ("regression", "mse")
    assert results["labels"] == []
    assert results["parameters"]["head"] == 32 * 32 + 32 + 32 + 1  # the pooler, and one output
    least = min(results["history"], key=lambda e: (e["dev"]["mse"], -e["epoch"]))
    assert results["selected_epoch"] == least["epoch"]
    assert results["test"]["loss"] == pytest.approx(results["test"]["mse"], rel=1e-5)
    card = (run.directory / "README.md").read_text()
    assert "- type: pearsonr" in card
    assert "A text regression model" in card
    assert "scatter_test.png" in card
    assert (run.directory / "plots" / "scatter_test.png").exists()

    output = tmp_path / "out.jsonl"
    files = [f"--input={data / 'test.jsonl'}", f"--output={output}"]
    assert predict.main(["predict", f"--run={run.directory}", *files]) == 0
    printed = capsys.readouterr().out
    assert "Pearson" in printed
    assert "mean of train (" in printed
    rows, labels = lines_of(output), lines_of(data / "test.jsonl")
    error = np.mean(
        [(a["prediction"] - b["label"]) ** 2 for a, b in zip(rows, labels, strict=True)]
    )
    assert read(tmp_path / "out.scores.json")["mse"] == pytest.approx(error)
    assert results["test"]["mse"] == pytest.approx(error)
    value = run.classifier.predict(["good good good 1"])[0]
    assert isinstance(value, jaxft.ValuePrediction)
    assert run.classifier.evaluate([("good", 3), ("bad", 0.0)])["examples"] == 2


@pytest.mark.parametrize("make", [topic_rows, score_rows])
def test_kept_layers_give_the_losses_of_all_layers(
    make: Any, tiny_bert_config: dict[str, Any], tmp_path: Path
) -> None:
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "model").mkdir()
    tiny.write_checkpoint(tmp_path / "model", tiny_bert_config | rates)
    data, losses = write(tmp_path / "data", make), []
    objective = "regression" if make is score_rows else "auto"
    fields = {"objective": objective, "seeds": (0,), "epochs": 1, "method.layers": (-1,)}
    # Rematerialised layers, too: their outputs are read without jax.checkpoint.
    for kept in (False, True):
        own = {"model.keep_frozen": kept, "model.remat": "layer", "method.dropout": 0.0}
        (run,) = finetune(data, tmp_path / "model", tmp_path / f"{{seed}}-{kept}", **fields, **own)
        rows = read_log(run.directory / "metrics.jsonl")
        losses.append([row["train"]["loss"] for row in rows if "train" in row])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    memory = read(run.directory / "results.json")["memory"]
    assert memory["measured_growth"] is None  # the layers that are kept took more than a step


def test_scores_of_a_model_of_elsewhere_have_no_baseline(
    scores: tuple[Path, list[jaxft.Run]], tmp_path: Path
) -> None:
    data, (run, *_) = scores
    run.classifier.export(tmp_path / "elsewhere", format="transformers")
    (tmp_path / "elsewhere" / "jaxft_run.json").unlink()
    found = jaxft.load(tmp_path / "elsewhere").evaluate(data / "test.jsonl")
    assert found["mse"] == pytest.approx(run.results["test"]["mse"], rel=1e-3)
    assert set(found["baseline"].values()) == {None}


def test_a_report_has_the_scores_of_each_objective(
    scores: tuple[Path, list[jaxft.Run]],
    topics: tuple[Path, list[jaxft.Run]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for (_, runs), titles in (
        (scores, ("MAE", "Spearman", "Pearson", "mean of train")),
        (topics, ("all labels right", "micro-F1", "macro-F1", "most frequent labels")),
    ):
        output = tmp_path / titles[0]
        folders = [str(run.directory) for run in runs]
        assert report.main(["report", *folders, f"--output={output}"]) == 0
        printed = capsys.readouterr().out
        for title in titles:
            assert title in printed
            for ending in ("html", "md", "tex"):
                # The page does not break lines at a hyphen.
                text = (
                    (output / f"report.{ending}")
                    .read_text()
                    .replace("\N{NON-BREAKING HYPHEN}", "-")
                )
                assert title in text
        shown = runs[0].results["shown"]
        header = (output / "report.csv").read_text().splitlines()[0].split(",")
        assert {f"test_{name}_mean" for name in shown} <= set(header)
        assert "± " in printed


# ---------------------------------------------------------------- an objective of one's own


@pytest.fixture
def ordinal() -> Iterator[objectives.Objective]:
    """The objective of tests/training/outside_objective.py, registered for one test."""
    folder = str(Path(__file__).parent / "training")
    sys.path.insert(0, folder)
    try:
        import outside_objective
    finally:
        sys.path.remove(folder)
    yield objectives.register(outside_objective.ORDINAL)
    del objectives.OBJECTIVES["ordinal"]


def stop_after(steps: int, workdir: Path) -> threading.Thread:
    """Sends this process a SIGTERM once a run has logged so many steps."""

    def steps_of(log: Path) -> int:
        return max((line["step"] for line in read_log(log)), default=0)

    def send() -> None:
        end = time.monotonic() + 300
        while steps_of(workdir / "metrics.jsonl") < steps and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_an_objective_outside_the_package_trains_resumes_and_predicts(
    ordinal: objectives.Objective, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "data", lambda count, seed: score_rows(count, seed, str))
    fields = {"objective": "ordinal", "seeds": (0,), "epochs": 5, "select": "best"}
    (whole,) = finetune(data, tiny_checkpoint, tmp_path / "{seed}-whole", **fields)
    stopped = tmp_path / "0-stopped"
    # Outside of the run, the signal is to end no test.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    thread = stop_after(4, stopped)
    with pytest.raises(InterruptedRunError):
        finetune(data, tiny_checkpoint, tmp_path / "{seed}-stopped", **fields)
    thread.join()
    signal.signal(signal.SIGTERM, before)
    assert not (stopped / "DONE").exists()
    (resumed,) = finetune(data, tiny_checkpoint, tmp_path / "{seed}-stopped", **fields)

    results = read(whole.directory / "results.json")
    again = read(resumed.directory / "results.json")
    for name in ("test", "test_unseen", "dev", "history", "metric", "selected_epoch"):
        assert results[name] == again[name]
    assert results["metric"] == "classes_off"
    assert results["labels"] == ["0", "1", "2", "3"]
    fewest = min(results["history"], key=lambda e: (e["dev"]["classes_off"], -e["epoch"]))
    assert results["selected_epoch"] == fewest["epoch"]

    texts = [row["text"] for row in lines_of(data / "test.jsonl")]
    answers = jaxft.load(resumed.directory).predict(texts)
    rows = lines_of(whole.directory / "predictions_test.jsonl")
    assert [one.prediction for one in answers] == [row["prediction"] for row in rows]
    assert whole.classifier.logits(texts[:2]).shape == (2, 3)
    assert_same_scores(whole.classifier.evaluate(data / "test.jsonl"), results["test"])

    # A report needs the run alone, not the objective.
    del objectives.OBJECTIVES["ordinal"]
    folders = [str(one.directory) for one in (whole, resumed)]
    assert report.main(["report", folders[0], f"--output={tmp_path / 'report'}"]) == 0
    assert "weighted kappa" in (tmp_path / "report" / "report.md").read_text()
    objectives.register(ordinal)


def test_an_objective_that_does_not_fit_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", topic_rows)
    cases = {
        "objective: unknown value 'regresion'": {"objective": "regresion"},
        "metric: unknown value 'pearson'; expected one of micro_f1": {"metric": "pearson"},
        "metric: unknown value 'macro_f1'": {"metric": "macro_f1", "objective": "regression"},
        "label: expected a number, got an array": {"objective": "regression"},
        "expected text, got an array": {"objective": "single_label"},
    }
    for message, fields in cases.items():
        with pytest.raises(InputError, match=message):
            finetune(data, tiny_checkpoint, tmp_path / "run", **fields)
