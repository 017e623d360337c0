"""Runs of version 5a4a636, whose checkpoints had numbers for names, are continued and used.

fixtures/README.md says how they were made.
"""

import json
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, read, rows_of, run_here
from safetensors.numpy import load_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

ARCHIVE = Path(__file__).parent / "fixtures" / "runs_5a4a636.tar.xz"
# The options that make each run; the last step that the interrupted one has saved.
RUNS = {
    "lora": ([], 11),
    "houlsby": (["optim.clip=0", "method.train_layer_norm=True"], 13),
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the old runs were made in: the base model, and a folder a run."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run(module: str, folder: Path, *arguments: str) -> str:
    """Runs a command in a folder, to which the runs' paths are relative; returns its output."""
    return run_here([sys.executable, "-m", f"jaxft.{module}", *arguments], cwd=folder)


def train(method: str, workdir: str, folder: Path, options: Sequence[str] = ()) -> str:
    fields = [
        *("data.source=sample", "data.max_length=32", "model.name=base", "batch_size=18"),
        *("epochs=8", "optim.learning_rate=1e-2", "method.rank=2", "method.size=4"),
        "data.batches=by_length",  # as it was by default
        *(options or RUNS[method][0]),
    ]
    config = f"{ROOT}/configs/acl.py:{method}"
    flags = [f"--config.{field}" for field in fields]
    return run("train", folder, f"--config={config}", *flags, f"--workdir={workdir}")


def saved_names(checkpoint: Path) -> set[str]:
    return set(read(checkpoint / "record" / "metadata")["sha256"])


def assert_continued(method: str, workdir: Path, printed: str) -> None:
    """Whether a run went on at the step of its checkpoint, and saves by path from there on."""
    assert f"continuing {method}/{workdir.name} at step {RUNS[method][1]}" in printed
    assert not (workdir / "bad_checkpoints").exists()
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    assert any(name.startswith("trained/classifier.") for name in saved_names(newest))


@pytest.mark.parametrize("method", RUNS)
def test_an_old_interrupted_run_is_continued_with_our_own_modules(method: str, old: Path) -> None:
    """They drop attention weights otherwise than the old code did, so it ends near, not there."""
    workdir, finished = old / method / "by_ours", old / method / "finished"
    shutil.copytree(old / method / "interrupted", workdir)
    assert_continued(method, workdir, train(method, f"{method}/by_ours", old))
    mine, theirs = read(workdir / "results.json"), read(finished / "results.json")
    assert len(mine["history"]) == len(theirs["history"])
    first, as_before = mine["history"][0], theirs["history"][0]  # from before it was stopped
    assert first["train_loss"] == pytest.approx(as_before["train_loss"], rel=1e-5)
    assert first["dev"]["loss"] == pytest.approx(as_before["dev"]["loss"], rel=1e-5)
    last, at_the_end = mine["history"][-1], theirs["history"][-1]
    assert last["train_loss"] == pytest.approx(at_the_end["train_loss"], rel=0.2)


# LoRA has a dropout of its own, whose masks are others now; houlsby has transformers' alone.
@pytest.mark.parametrize("method", ["houlsby"])
def test_an_old_interrupted_run_is_continued_and_ends_as_the_old_code_ended(
    method: str, flax_transformers: None, old: Path
) -> None:
    workdir, finished = old / method / "interrupted", old / method / "finished"
    assert "trained/0000" in saved_names(workdir / "checkpoints" / str(RUNS[method][1]))
    # The old code had transformers' classes, and so their dropout.
    options = [*RUNS[method][0], "model.implementation=transformers"]
    assert_continued(method, workdir, train(method, f"{method}/interrupted", old, options))

    mine, theirs = read(workdir / "results.json"), read(finished / "results.json")
    for one, other in zip(mine["history"], theirs["history"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["dev"]["loss"] == pytest.approx(other["dev"]["loss"], rel=1e-5)
    assert mine["test"]["confusion"] == theirs["test"]["confusion"]
    rows, others = (rows_of(path / "predictions_test.jsonl") for path in (workdir, finished))
    for row, other in zip(rows, others, strict=True):
        assert (row["id"], row["prediction"]) == (other["id"], other["prediction"])
        assert row["probabilities"] == pytest.approx(other["probabilities"], rel=1e-4)
    adapter, old_adapter = (
        load_file(path / "adapter" / "trained.safetensors") for path in (workdir, finished)
    )
    assert adapter.keys() == old_adapter.keys()
    for path, array in adapter.items():
        np.testing.assert_allclose(array, old_adapter[path], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", RUNS)
def test_an_old_finished_run_predicts_as_it_did(method: str, old: Path) -> None:
    finished = old / method / "finished"
    rows = rows_of(finished / "predictions_test.jsonl")
    inputs = old / f"{method}.jsonl"
    inputs.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    run(
        *("predict", old, f"--run={method}/finished", f"--input={method}.jsonl"),
        f"--output={method}.out.jsonl",
    )
    found = rows_of(old / f"{method}.out.jsonl")
    for row, other in zip(found, rows, strict=True):
        assert row["prediction"] == other["prediction"]
        assert row["probabilities"] == pytest.approx(other["probabilities"], rel=1e-4)


def test_an_old_finished_run_is_shown_and_not_trained_again(old: Path) -> None:
    assert "is done already" in train("lora", "lora/finished", old)


def test_an_old_run_that_accumulated_otherwise_says_so_and_begins_anew(old: Path) -> None:
    """Version 5a4a636 averaged over batches; the optimizer's state was another one."""
    printed = train("lora", "accumulated/interrupted", old, ["optim.accumulate=3"])
    lines = [line for line in printed.splitlines() if line.startswith("checkpoint ")]
    (line,) = lines
    assert "of another model or optimizer: opt_state/examples is int32 () in it" in line
    assert (old / "accumulated" / "interrupted" / "bad_checkpoints" / "11").is_dir()
    assert (old / "accumulated" / "interrupted" / "DONE").exists()
