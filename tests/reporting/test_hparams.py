"""Rows of TensorBoard's HPARAMS: what two runs differ in stands in both, under the same name."""

from dataclasses import fields
from typing import Any

import pytest
from ml_collections import ConfigDict
from test_aggregate import run_of
from test_tables import EMPTY

from configs import base
from jaxft.config import to_json
from jaxft.peft.methods import METHODS
from jaxft.reporting import hparams

ROW = {"task", "model", "method", "seed", "lr", "batch", "epochs"}
OPTIONS = {field.name for method in METHODS.values() for field in fields(method.options)}
EVERY = {"layers", "train_pooler", "unfreeze"}
LORA = {"rank", "alpha", "dropout", "targets", "rank_stabilized", "rank_pattern", "alpha_pattern"}
LORA |= {"lora_init", "lr_ratio"}


def settings(**fields: Any) -> dict[str, hparams.Setting]:
    """The settings of a run of the default config; in names __ is a dot."""
    config: ConfigDict = base.get_config()
    with config.unlocked():
        config.update_from_flattened_dict({n.replace("__", "."): x for n, x in fields.items()})
    own = {"task": config.task, "model": config.model.name, "method": config.method.name}
    return hparams.settings({**own, "seed": config.seed, "config": to_json(config)})


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("full", set()),
        ("head", set()),
        ("lora", LORA),
        ("houlsby", {"size", "activation", "train_layer_norm"}),
        ("vera", {"vera_rank", "vera_seed", "dropout", "targets"}),
        ("prefix", {"prefix_length"}),
    ],
)
def test_a_method_has_its_own_options_and_no_others(method: str, options: set[str]) -> None:
    found = settings(method__name=method)
    assert found.keys() >= ROW
    assert found.keys() & OPTIONS == options | EVERY


def test_what_is_set_for_every_method_is_called_the_same() -> None:
    names = [set(settings(method__name=method)) - OPTIONS for method in METHODS]
    assert all(own == names[0] for own in names)


def test_values_are_texts_numbers_and_booleans() -> None:
    found = settings(method__layers=(-2, -1), seed=3, optim__learning_rate=3e-4)
    assert all(type(value) in (str, int, float, bool) for value in found.values())
    assert (found["targets"], found["layers"]) == ("query+value", "-2+-1")
    assert (found["seed"], found["lr"], found["train_pooler"]) == ("3", 3e-4, True)
    assert settings()["layers"] == "all"


FREE = {"together": "off", "seeds": (1, 2), "mesh__fsdp": 2, "memory__batch_sizes": (8,)}
FREE |= {"optim__learning_rates": (1e-3, 1e-4), "data__dir": "elsewhere", "save_every": 7}


@pytest.mark.parametrize("field", FREE)
def test_what_determines_no_score_is_no_setting(field: str) -> None:
    assert settings(**{field: FREE[field]}) == settings()


VARIED = {"task": "acl_fs", "model__name": "minilm", "method__rank": 4, "seed": 1, "epochs": 3}
VARIED |= {"optim__schedule": "cosine", "select": "last", "model__dtype": "bfloat16"}


@pytest.mark.parametrize("field", VARIED)
def test_what_a_run_is_told_differs_in_its_row(field: str) -> None:
    assert settings(**{field: VARIED[field]}) != settings()


def test_what_some_tasks_read_stands_in_their_rows() -> None:
    assert "few_shot" in settings(task="acl_fs")
    assert {"hub", "labels", "data.columns.text"} & settings().keys() == set()
    assert settings(task="custom", data__hub="org/name")["hub"] == "org/name"
    assert "few_shot" not in settings(task="custom,acl_sup")


def test_a_model_in_a_directory_goes_by_its_name() -> None:
    assert settings(model__name="/somewhere/minilm")["model"] == "minilm"
    assert settings(model__name="allenai/scibert")["model"] == "allenai/scibert"


TIMING = {"train_s": 125.0, "seeds_together": 2}


def test_scores_are_those_of_the_results() -> None:
    run = run_of(timing=TIMING).results
    found = hparams.scores(run)
    assert found["Result/test_accuracy"] == run["test"]["accuracy"]
    assert found["Result/test_unseen_macro_f1"] == run["test_unseen"]["macro_f1"]
    assert found["Result/best_dev_macro_f1"] == max(e["dev"]["macro_f1"] for e in run["history"])
    assert found["Result/trained_parameters"] == run["parameters"]["trained"]
    assert found["Result/training_seconds"] == 62.5


def test_a_score_that_does_not_exist_is_left_out() -> None:
    every, some = (run_of(timing=TIMING, **x).results for x in ({}, {"test_unseen": EMPTY}))
    assert hparams.scores(every).keys() - hparams.scores(some).keys() == {
        "Result/test_unseen_macro_f1"
    }
