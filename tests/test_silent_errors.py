"""What a wrong figure could hide in, tried through the public functions and the commands.

Each test failed at 5a4a636, where the wrong figure came without a word.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from safetensors.numpy import load_file

import jaxft
from jaxft import cli, train
from jaxft import report as report_command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

ROOT = Path(__file__).parents[1]
CELLS = ROOT / "docs" / "results" / "minilm_grid" / "cells"
ACL = ("Background", "CompareOrContrast", "Extends", "Future", "Motivation", "Uses")
FEELINGS = ("anger", "fear", "joy", "love", "sadness", "surprise")


# ---------------------------------------------------------------- optim.accumulate


@pytest.fixture(scope="module")
def without_dropout(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose gradients follow from the examples alone, whatever their batch."""
    directory = tmp_path_factory.mktemp("base") / "still"
    shutil.copytree(tiny_checkpoint, directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def trained_head(model: Path, workdir: Path, **fields: Any) -> dict[str, np.ndarray]:
    """The leaves that head-only training at a constant rate of 0.01 leaves; 120 examples."""
    constant = {"learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0, "clip": 0.0}
    small = {"source": "sample", "max_length": 24, "select": "last"}
    run = jaxft.finetune(
        "acl_sup", str(model), "head", workdir=workdir, **{**constant, **small, **fields}
    )
    return load_file(run.directory / "adapter" / "trained.safetensors")


def test_an_update_is_the_mean_over_all_examples_of_its_batches(
    without_dropout: Path, tmp_path: Path
) -> None:
    # Three batches of 48, 48 and 24, of which the last is short, are the 120 at once.
    parts = trained_head(without_dropout, tmp_path / "3", batch_size=48, accumulate=3, epochs=3)
    whole = trained_head(without_dropout, tmp_path / "1", batch_size=120, epochs=3)
    assert parts.keys() == whole.keys()
    for path, leaf in whole.items():
        np.testing.assert_allclose(parts[path], leaf, atol=2e-4, err_msg=path)


def test_batches_that_are_left_at_the_end_of_an_epoch_make_an_update(
    without_dropout: Path, tmp_path: Path
) -> None:
    # The bias begins at 0, is not decayed, and Adam's first steps are as long as the rate.
    def largest(accumulate: int) -> float:
        fields = {"batch_size": 48, "accumulate": accumulate, "epochs": 1}
        leaves = trained_head(without_dropout, tmp_path / str(accumulate), **fields)
        return float(np.abs(leaves["classifier/bias"]).max())

    assert largest(3) == pytest.approx(0.01, rel=0.01)
    assert largest(2) > 0.015


# ---------------------------------------------------------------- the best epoch


def test_an_equal_score_uses_up_the_patience(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = jaxft.finetune(
        *("acl_sup", str(tiny_checkpoint), "head"),
        workdir=tmp_path / "run",
        learning_rate=1e-12,
        patience=2,
        epochs=20,
        source="sample",
        max_length=24,
    )
    scores = [entry["dev"]["macro_f1"] for entry in run.results["history"]]
    assert len(set(scores)) == 1
    assert len(scores) == 3


# ---------------------------------------------------------------- a checkpoint's classifier


def classifier_over(checkpoint: Path, names: tuple[str, ...], directory: Path) -> Path:
    """A copy of a base model with a classifier over these labels."""
    shutil.copytree(checkpoint, directory)
    base = msgpack_restore((checkpoint / "flax_model.msgpack").read_bytes())
    kernel = np.full((32, len(names)), 0.5, np.float32)
    head = {"kernel": kernel, "bias": np.zeros(len(names), np.float32)}
    weights = msgpack_serialize({"bert": base, "classifier": head})
    (directory / "flax_model.msgpack").write_bytes(weights)
    config = json.loads((directory / "config.json").read_text())
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize(("names", "fresh"), [(ACL, False), (FEELINGS, True), (ACL[::-1], True)])
def test_a_classifier_over_as_many_other_labels_is_not_taken_over(
    names: tuple[str, ...],
    fresh: bool,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = classifier_over(tiny_checkpoint, names, tmp_path / "model")
    argv = [
        *("train", "--config", str(ROOT / "configs" / "acl.py:head"), "--dry_run"),
        *(f"--config.model.name={model}", "--config.data.source=sample"),
        *("--config.data.max_length=24", "--config.batch_size=8"),
    ]
    monkeypatch.setattr("sys.argv", argv)  # config_flags looks into it, too
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    assert cli.guarded(train.main, argv) == 0
    assert ("(classifier newly initialised)" in capsys.readouterr().out) == fresh


# ---------------------------------------------------------------- a report on finished runs


def cell(name: str, folder: Path) -> Path:
    """A copy of a finished run of docs/results."""
    (found,) = CELLS.glob(f"{name}-minilm-seed0-*")
    return Path(shutil.copytree(found, folder / name))


def change(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file; `method__targets` is `targets` in `method`."""
    content = json.loads(path.read_text())
    for name, value in fields.items():
        *sections, last = name.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[last] = value
    path.write_text(json.dumps(content))


def test_a_report_shows_targets_with_dollar_signs_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regexes = [r".*/\w+/query$", r".*/\w+/value$"]
    plain, other = cell("acl_sup-lora", tmp_path), tmp_path / "regexes"
    shutil.copytree(plain, other)
    change(
        other / "results.json",
        method_options__targets=regexes,
        config__method__targets=regexes,
    )
    output = tmp_path / "report"
    assert cli.guarded(report_command.main, ["report", str(tmp_path), f"--output={output}"]) == 0
    printed = capsys.readouterr().out
    for text in (printed, (output / "report.html").read_text()):
        assert r".*/\w+/query$" in text


def test_a_report_refuses_to_compare_methods_on_other_test_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, lora = (cell(f"acl_sup-{method}", tmp_path) for method in ("head", "lora"))
    argv = ["report", str(tmp_path), f"--output={tmp_path / 'report'}"]
    for run, test in ((head, "a"), (lora, "b")):
        splits = {"train": "t", "dev": "d", "test": test}
        change(run / "env.json", splits_sha256=splits, data_sha256=test)
    assert cli.guarded(report_command.main, argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(head) in line
    assert str(lora) in line
    assert "test" in line
    # Older runs do not say which split it was: then the report says that.
    for run in (head, lora):
        content = json.loads((run / "env.json").read_text())
        del content["splits_sha256"]
        (run / "env.json").write_text(json.dumps(content))
    assert cli.guarded(report_command.main, argv) == 0
    assert "trained on different data" in capsys.readouterr().out
