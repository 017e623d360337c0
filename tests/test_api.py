"""The public interface: jaxft.finetune, jaxft.load, jaxft.plan, as a notebook calls them."""

import contextlib
import io
import json
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

import jaxft
from jaxft import train
from jaxft.api import make_config
from jaxft.io import read_json
from jaxft.sweeping.local import count_accelerators

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "jaxft" / "data" / "samples"
SMALL: dict[str, Any] = {
    "source": "sample",
    "batch_size": 16,
    "epochs": 1,
    "max_length": 32,
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> jaxft.Run:
    """A finished LoRA run on ACL-ARC's sample; it must print nothing."""
    workdir = tmp_path_factory.mktemp("api") / "run"
    with printed_nothing():
        return jaxft.finetune("acl_sup", str(tiny_checkpoint), rank=4, workdir=workdir, **SMALL)


@contextlib.contextmanager
def printed_nothing() -> Iterator[None]:
    """Fails if anything is written to sys.stdout in the block."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    assert printed.getvalue() == ""


# ---------------------------------------------------------------- finetune


def test_results_are_those_of_the_run_directory(run: jaxft.Run) -> None:
    results = run.results
    assert results["model"] != ""
    assert results["method"] == "lora"
    assert results["config"]["method"]["rank"] == 4
    assert results["config"]["optim"]["learning_rate"] == 1e-3  # the one that suits LoRA
    assert json.loads((run.directory / "results.json").read_text()) == results
    assert [entry["epoch"] for entry in results["history"]] == [1]


def test_the_same_call_again_returns_the_finished_run(
    run: jaxft.Run, tiny_checkpoint: Path
) -> None:
    before = (run.directory / "results.json").stat().st_mtime_ns
    again = jaxft.finetune("acl_sup", str(tiny_checkpoint), rank=4, workdir=run.directory, **SMALL)
    assert again == run
    assert (run.directory / "results.json").stat().st_mtime_ns == before


def test_a_run_records_the_command_that_repeats_it(
    run: jaxft.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = json.loads((run.directory / "env.json").read_text())["command"]
    assert command in (run.directory / "README.md").read_text()
    argv = ["train", *shlex.split(command)[3:]]  # python -m jaxft.train
    monkeypatch.setattr("sys.argv", argv)  # config_flags looks into it, too
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    assert train.main(argv) == 0
    printed = capsys.readouterr().out
    assert str(run.directory) in printed
    assert "is done already" in printed


def test_verbose_prints_what_the_command_prints(
    run: jaxft.Run, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jaxft.finetune(
        "acl_sup", str(tiny_checkpoint), rank=4, workdir=run.directory, verbose=True, **SMALL
    )
    assert "is done already; its results:" in capsys.readouterr().out


def test_several_seeds_are_several_runs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    runs = jaxft.finetune_many(
        "acl_sup", str(tiny_checkpoint), "head", seeds=(1, 2), workdir=tmp_path / "{seed}", **SMALL
    )
    assert [one.results["seed"] for one in runs] == [1, 2]
    assert [one.directory for one in runs] == [tmp_path / "1", tmp_path / "2"]
    assert runs[0].results["dev"]["loss"] != runs[1].results["dev"]["loss"]
    with pytest.raises(jaxft.InputError, match=r"2 runs; expected one, see jaxft\.finetune_many"):
        jaxft.finetune("acl_sup", str(tiny_checkpoint), "head", seeds=(1, 2), **SMALL)


def test_a_field_may_have_the_name_that_other_tools_give_it() -> None:
    config = make_config("acl_sup", "minilm", "lora", {"lr": 2e-3, "method.rank": 2})
    assert (config.optim.learning_rate, config.method.rank) == (2e-3, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epohcs": 3}, "epohcs: no such field; did you mean 'epochs'?"),
        ({"epochs": "three"}, "epochs: 'three'; expected int, for example"),
        ({"epochs": 0}, "epochs: 0; expected a whole number above 0"),
        ({"task": "acl_sub"}, "'acl_sub'"),
        ({"method": "lorra"}, "'lorra'; expected one of full, head, bitfit, layernorm, lora, "),
        ({"model": "no/such/directory"}, "no/such/directory"),
    ],
)
def test_bad_fields_are_one_line(
    fields: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = {"task": "acl_sup", "model": str(tiny_checkpoint), "workdir": tmp_path / "run"}
    with pytest.raises(jaxft.InputError) as caught:
        jaxft.finetune(**{**SMALL, **arguments, **fields})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- load


def test_a_loaded_run_predicts_its_own_test_split_to_the_bit(run: jaxft.Run) -> None:
    saved = rows_of(run.directory / "predictions_test.jsonl")
    classifier = jaxft.load(run.directory)
    assert list(classifier.labels) == run.results["labels"]
    found = classifier.predict([row["text"] for row in saved])
    assert [one.label for one in found] == [row["prediction"] for row in saved]
    for one, row in zip(found, saved, strict=True):
        assert one.probabilities == row["probabilities"]
        assert one.probability == max(one.probabilities.values())
        assert math.isclose(sum(one.probabilities.values()), 1.0, rel_tol=1e-6)


def test_evaluate_scores_a_file_and_rows_as_the_run_did(run: jaxft.Run) -> None:
    path = SAMPLE / "acl" / "test.jsonl"
    of_file = run.classifier.evaluate(path)
    rows = rows_of(run.directory / "predictions_test.jsonl")
    labelled = [(row["text"], row["label"]) for row in rows]
    of_rows = run.classifier.evaluate(labelled)
    assert of_rows == of_file
    assert of_file["accuracy"] == run.results["test"]["accuracy"]
    truth, predicted = [label for _, label in labelled], [row["prediction"] for row in rows]
    assert of_rows["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    macro = f1_score(truth, predicted, labels=run.results["labels"], average="macro")
    assert of_rows["macro_f1"] == pytest.approx(macro)


def test_logits_are_those_of_the_probabilities(run: jaxft.Run) -> None:
    texts = ["We use the parser of Collins (1999).", "In future work we will see."]
    logits_NxC = run.classifier.logits(texts)
    assert logits_NxC.shape == (2, len(run.classifier.labels))
    assert logits_NxC.dtype == np.float32
    odds_NxC = np.exp(logits_NxC - logits_NxC.max(-1, keepdims=True))
    found = [list(one.probabilities.values()) for one in run.classifier.predict(texts)]
    np.testing.assert_allclose(found, odds_NxC / odds_NxC.sum(-1, keepdims=True), rtol=1e-5)


def test_no_text_is_no_prediction(run: jaxft.Run) -> None:
    assert run.classifier.predict([]) == []
    assert run.classifier.logits([]).shape == (0, len(run.classifier.labels))


def test_a_classifier_compiles_each_length_once(run: jaxft.Run) -> None:
    classifier = jaxft.load(run.directory)
    with compilations() as first:
        classifier.predict(["We use it."])
    with compilations() as second:
        classifier.predict(["We use that, too."] * 3)
    assert len(first) > 0
    assert second == []


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects XLA's compilations in the block, by JAX's own events."""
    found: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one string", "texts: one string; expected a list of texts"),
        (["fine", ("a", "pair")], "texts[1]: ('a', 'pair'); expected a text, as the run takes"),
        ([None], "texts[0]: None; expected a text, as the run takes"),
        ([b"bytes"], "texts[0]: b'bytes'; expected a text, as the run takes"),
    ],
)
def test_texts_of_another_kind_are_refused(run: jaxft.Run, texts: Any, message: str) -> None:
    with pytest.raises(jaxft.InputError) as caught:
        run.classifier.predict(texts)
    assert str(caught.value) == message


def test_labels_that_the_run_does_not_know_are_refused(run: jaxft.Run, tmp_path: Path) -> None:
    with pytest.raises(jaxft.InputError, match=r"rows\[1\]: label: .*; did you mean 'Uses'\?"):
        run.classifier.evaluate([("a text", "Uses"), ("a text", "Use")])
    path = tmp_path / "unlabelled.jsonl"
    path.write_text('{"text": "We use it."}\n')
    with pytest.raises(jaxft.InputError, match="no column of labels"):
        run.classifier.evaluate(path)


def test_a_directory_that_is_no_finished_run_is_refused(run: jaxft.Run, tmp_path: Path) -> None:
    with pytest.raises(jaxft.InputError, match="no directory"):
        jaxft.load(tmp_path / "nothing")
    with pytest.raises(jaxft.InputError, match="is not finished"):
        jaxft.load(tmp_path)


# ---------------------------------------------------------------- plan


@pytest.fixture(scope="module")
def plan(tiny_checkpoint: Path) -> jaxft.Plan:
    """The tiny BERT's step with two methods on the CPU."""
    with printed_nothing():
        return jaxft.plan(
            str(tiny_checkpoint),
            ("head", "lora"),
            target="cpu",
            batch_sizes=4,
            max_length=16,
            rank=4,
        )


def test_a_plan_has_a_row_for_each_method(plan: jaxft.Plan) -> None:
    head, lora = plan.rows
    assert (head["method"], lora["method"]) == ("head", "lora")
    assert (lora["batch_size"], lora["length"], lora["devices"]) == (4, 16, 1)
    # Two layers, query and value, A and B of rank 4 on a hidden size of 32.
    assert lora["parameters"]["adapter"] == 2 * 2 * 2 * 4 * 32
    assert head["compiled"] is not None
    assert lora["compiled"] is not None
    assert 0 < head["compiled"]["peak"] < lora["compiled"]["peak"]


def test_a_plan_is_shown_as_the_command_shows_it(plan: jaxft.Plan, tmp_path: Path) -> None:
    lines = plan.table().splitlines()
    assert any(line.startswith("lora") for line in lines)
    path = plan.plot(tmp_path / "plan.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(jaxft.InputError, match=r"'h101'.*did you mean"):
        jaxft.plan("roberta-base", "lora", target="h101")


# ---------------------------------------------------------------- compare and run_grid


def test_compare_reports_on_the_runs_in_a_folder(run: jaxft.Run, tmp_path: Path) -> None:
    with printed_nothing():
        report = jaxft.compare(run.directory)
        page = report.write(tmp_path / "report")
    (group,) = report.groups
    assert [one.directory for one in group.runs] == [run.directory]
    assert f"{100 * run.results['test']['accuracy']:.1f}" in report.text()
    assert page.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(jaxft.InputError, match="contains no run"):
        jaxft.compare(tmp_path)


def test_a_grid_runs_once_and_its_rows_are_the_means_over_seeds(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs see a variable that was set after this process had its fork server."""
    count_accelerators()
    monkeypatch.setenv("JAXFT_DATA", str(SAMPLE))
    axes = (["acl_fs"], [str(tiny_checkpoint)], ["head"])
    fields = {**SMALL, "source": "local", "seeds": (0, 1), "few_shot": 8}
    with printed_nothing():
        outcome = jaxft.run_grid(*axes, workdir=tmp_path, **fields)
    assert not outcome.failures
    (row,) = outcome.rows
    accuracies = [
        read_json(tmp_path / one["directory"] / "results.json")["test"]["accuracy"]
        for one in row["runs"]
    ]
    assert row["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert "head" in outcome.table()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/DONE")}
    assert len(done) == 2
    again = jaxft.run_grid(*axes, workdir=tmp_path, **fields)
    assert again.rows == outcome.rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/DONE")} == done


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epocs": 1}, "epocs: no such field; did you mean 'epochs'?"),
        ({"seed": 1}, "seed: the grid sets this field; see config.seeds"),
        ({"methods": "lora"}, "methods: 'lora'; expected a list, such as ['lora']"),
        ({"methods": ["lroa"]}, "did you mean 'lora'?"),
        ({"workers": -1}, "--workers: -1; expected 0 or more"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_written(
    wrong: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    axes: dict[str, Any] = {"tasks": ["acl_sup"], "models": [str(tiny_checkpoint)]}
    given = {**axes, "methods": ["head"], **SMALL, **wrong}
    with pytest.raises(jaxft.InputError) as caught:
        jaxft.run_grid(workdir=tmp_path / "grid", **given)
    assert message in str(caught.value)
    assert not (tmp_path / "grid").exists()


def test_the_public_names_are_what_the_package_lists() -> None:
    assert set(jaxft.__all__) <= set(dir(jaxft))
    for name in jaxft.__all__:
        assert getattr(jaxft, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'fientune'"):
        jaxft.fientune  # noqa: B018 the attribute itself is looked up
