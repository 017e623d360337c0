"""A run on a quantised backbone: continued to the same bits, and loaded with its own logits."""

import json
from pathlib import Path

import pytest

import jaxft
from jaxft.api import make_config
from jaxft.errors import InputError
from jaxft.models.trained import LEAVES
from jaxft.planning import targets
from jaxft.run.build import read_model
from jaxft.run.plans import make_jobs
from tests import commands
from tests.test_api import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

FIELDS = SMALL | {"epochs": 2, "rank": 4, "model.frozen_dtype": "nf4"}


@pytest.fixture(scope="module")
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> jaxft.Run:
    workdir = tmp_path_factory.mktemp("nf4") / "run"
    return jaxft.finetune("acl_sup", str(tiny_checkpoint), workdir=workdir, **FIELDS)


def test_its_plan_and_its_bytes_are_those_of_the_codes(
    run: jaxft.Run, tiny_checkpoint: Path
) -> None:
    memory = run.results["memory"]
    assert memory["plan"]["frozen_dtype"] == "nf4"
    assert memory["plan"]["partitions"]["frozen"] == memory["frozen"]
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    frozen = run.results["parameters"]["frozen"]
    width, mlp, layers = (
        config[f] for f in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    kernels = layers * (4 * width**2 + 2 * width * mlp)
    # Widths of 32 and 64 are one block: 32 bytes of codes and a scale for each output.
    outputs = layers * (5 * width + mlp)
    assert memory["frozen"]["params_bytes"] == 4 * (frozen - kernels) + outputs * (32 + 4)


def test_a_loaded_run_predicts_its_own_test_split_to_the_bit(run: jaxft.Run) -> None:
    lines = (run.directory / "predictions_test.jsonl").read_text().splitlines()
    saved = [json.loads(line) for line in lines]
    found = jaxft.load(run.directory).predict([row["text"] for row in saved])
    assert [one.probabilities for one in found] == [row["probabilities"] for row in saved]


def test_an_interrupted_run_ends_with_the_same_bits(
    run: jaxft.Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    assert len(list((run.directory / "checkpoints").iterdir())) == 2
    commands.cut_short(run.directory, workdir)
    jaxft.finetune("acl_sup", str(tiny_checkpoint), workdir=workdir, **FIELDS)
    before, after = (path / "adapter" / LEAVES for path in (run.directory, workdir))
    assert before.read_bytes() == after.read_bytes()


def test_it_is_another_run_than_that_of_float32(run: jaxft.Run, tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"model\.frozen_dtype"):
        jaxft.finetune(
            "acl_sup",
            str(tiny_checkpoint),
            workdir=run.directory,
            **FIELDS | {"model.frozen_dtype": "int8"},
        )


def test_a_table_has_each_way_of_storing_and_full_once() -> None:
    methods = {"memory.methods": ("full", "head"), "memory.frozen_dtypes": ("int8", "nf4")}
    config = make_config("acl_sup", "roberta-base", "lora", methods)
    jobs = make_jobs(config, read_model(config, ("a", "b")), targets.parse("cpu"))
    assert [(label, job.model["frozen_dtype"]) for label, job in jobs] == [
        ("full", "float32"),
        ("head", "int8"),
        ("head", "nf4"),
    ]
    config = make_config("acl_sup", "roberta-base", "lora", {"memory.frozen_dtypes": ("nf3",)})
    with pytest.raises(InputError, match=r"memory\.frozen_dtypes: .*'nf3'.*did you mean 'nf4'"):
        make_jobs(config, read_model(config, ("a", "b")), targets.parse("cpu"))
