"""Runs whose frozen layers are computed once: the figures of runs that compute them each step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxft
from jaxft.models.trained import LEAVES
from jaxft.training.event_log import read_log
from tests import commands, tiny
from tests.test_api import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

TOP: dict[str, Any] = SMALL | {"epochs": 2, "rank": 4, "method.layers": (-1,), "method.dropout": 0}


@pytest.fixture(scope="module")
def checkpoint(tiny_bert_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without dropout, so that nothing distinguishes the two ways but rounding."""
    directory = tmp_path_factory.mktemp("tiny-bert-without-dropout")
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tiny.write_checkpoint(directory, tiny_bert_config | rates)
    return directory


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> jaxft.Run:
    workdir = tmp_path_factory.mktemp("kept") / "run"
    return jaxft.finetune(
        "acl_sup", str(checkpoint), workdir=workdir, **TOP, **{"model.keep_frozen": True}
    )


def losses_of(workdir: Path) -> np.ndarray:
    rows = read_log(workdir / "metrics.jsonl")
    return np.array([row["train"]["loss"] for row in rows if "train" in row])


def probabilities_of(workdir: Path) -> list[list[float]]:
    lines = (workdir / "predictions_test.jsonl").read_text().splitlines()
    return [list(json.loads(line)["probabilities"].values()) for line in lines]


@pytest.mark.parametrize("batches", ["by_length", "packed"])
def test_losses_and_predictions_are_those_of_all_layers_at_each_step(
    run: jaxft.Run, checkpoint: Path, tmp_path: Path, batches: str
) -> None:
    fields = TOP | {"data.batches": batches}
    whole = jaxft.finetune("acl_sup", str(checkpoint), workdir=tmp_path / "whole", **fields)
    kept = run.directory
    if batches == "by_length":  # `run` has the default
        fields |= {"model.keep_frozen": True}
        kept = tmp_path / "kept"
        jaxft.finetune("acl_sup", str(checkpoint), workdir=kept, **fields)
    np.testing.assert_allclose(losses_of(kept), losses_of(whole.directory), rtol=1e-4)
    np.testing.assert_allclose(probabilities_of(kept), probabilities_of(whole.directory), atol=1e-4)


def test_its_plan_has_no_parameters_of_the_kept_layers(run: jaxft.Run) -> None:
    results = run.results
    frozen = results["memory"]["frozen"]["params_bytes"]
    assert 0 < frozen < 4 * results["parameters"]["frozen"] / 2
    assert results["memory"]["plan"]["partitions"]["frozen"]["params_bytes"] == frozen
    assert min(results["memory"]["plan"]["breakdown"].values()) >= 0


def test_a_loaded_run_predicts_its_test_split(run: jaxft.Run) -> None:
    lines = (run.directory / "predictions_test.jsonl").read_text().splitlines()
    found = jaxft.load(run.directory).predict([json.loads(line)["text"] for line in lines])
    np.testing.assert_allclose(
        [list(one.probabilities.values()) for one in found],
        probabilities_of(run.directory),
        atol=1e-5,
    )


def test_an_interrupted_run_ends_with_the_same_bits(
    run: jaxft.Run, checkpoint: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    commands.cut_short(run.directory, workdir)
    jaxft.finetune(
        "acl_sup", str(checkpoint), workdir=workdir, **TOP, **{"model.keep_frozen": True}
    )
    before, after = (path / "adapter" / LEAVES for path in (run.directory, workdir))
    assert before.read_bytes() == after.read_bytes()


def test_eight_devices_and_two_seeds_together_give_the_same_losses(
    run: jaxft.Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    fields = ("epochs=2", "method.rank=4", "method.layers=-1", "method.dropout=0.0")
    overrides = [f"--config.{field}" for field in (*fields, "mesh.fsdp=2", "seeds=0,1")]
    command = commands.train_command(checkpoint, tmp_path / "seed{seed}", *overrides)
    command += ["--config.together=on", "--config.model.keep_frozen=True"]
    assert "keeping the outputs of the lowest 1 layers" in commands.run(command)
    np.testing.assert_allclose(losses_of(tmp_path / "seed0"), losses_of(run.directory), rtol=1e-4)
    assert not np.allclose(losses_of(tmp_path / "seed1"), losses_of(run.directory), rtol=1e-2)
