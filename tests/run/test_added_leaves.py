"""A run saves the frozen parameters that its method added, and needs nothing else to predict."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxft
from jaxft.data.tasks import load as load_task
from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import trained as trained_files
from jaxft.run import build
from tests.peft.trained_adapters import write_adapter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

SMALL: dict[str, Any] = {
    "data.source": "sample",
    "data.max_length": 16,
    "batch_size": 16,
    "epochs": 1,
    "size": 8,
    "vera_rank": 8,
}


def train(method: str, checkpoint: Path, workdir: Path, **fields: Any) -> jaxft.Run:
    return jaxft.finetune(
        "restaurant", str(checkpoint), method, workdir=workdir, **{**SMALL, **fields}
    )


def check_predictions(run: jaxft.Run) -> None:
    """The loaded run has the scores that the run had on its test split."""
    data = load_task("restaurant", source="sample")
    rows = [((example.text, example.pair or ""), example.label) for example in data.test]
    scores = jaxft.load(run.directory).evaluate(rows)
    assert scores["macro_f1"] == run.results["test"]["macro_f1"]
    assert scores["loss"] == pytest.approx(run.results["test"]["loss"], rel=1e-5)


def test_veras_matrices_are_saved_with_what_is_trained(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run = train("vera", tiny_checkpoint, tmp_path / "run")
    saved, settings = trained_files.load(run.directory / "adapter")
    assert {"vera_a", "vera_b"} < saved.keys() == settings["parameters"].keys()
    check_predictions(run)


def test_a_fusion_predicts_without_the_runs_that_it_is_made_of(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base, backbone = build.model_digests(tiny_checkpoint), backbones.load(tiny_checkpoint, 3)
    parts = [tmp_path / "part0", tmp_path / "part1"]
    own = [
        write_adapter(part, backbone, "pfeiffer", seed, base, size=4 + 4 * seed)
        for seed, part in enumerate(parts)
    ]
    adapters = tuple(map(str, parts))
    run = train("fusion", tiny_checkpoint, tmp_path / "fusion", adapters=adapters)
    saved, settings = trained_files.load(run.directory / "adapter")
    for number, leaves in enumerate(own):
        for path, x in leaves.items():
            copy = path.replace("/adapter/", f"/adapter_{number}/")
            np.testing.assert_array_equal(saved[copy], x)
    assert [one["size"] for one in settings["method"]["adapters"]] == [4, 8]

    # With an adapter that was trained again meanwhile it would be another run.
    write_adapter(parts[1], backbone, "pfeiffer", 2, base, size=8)
    with pytest.raises(InputError, match=r"the model \(adapter .*part1\) changed since"):
        train("fusion", tiny_checkpoint, run.directory, adapters=adapters)
    write_adapter(parts[1], backbone, "pfeiffer", 2, {**base, "weights": "others"})
    with pytest.raises(InputError, match="part1/adapter: trained on another base model than"):
        train("fusion", tiny_checkpoint, tmp_path / "another", adapters=adapters)
    for part in parts:
        shutil.rmtree(part)
    check_predictions(run)
