"""Run files as types: a missing field is one line, and reading them needs no JAX."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_aggregate import ENV, run_of

from jaxft.errors import InputError
from jaxft.reporting.schema import (
    ENV_FIELDS,
    NESTED_FIELDS,
    RESULTS_FIELDS,
    flat,
    make_run,
    partitions,
    read_run,
)

GRID = Path(__file__).parents[2] / "docs" / "results" / "minilm_grid" / "cells"
WITHOUT_JAX = (
    *("added_fields", "aggregate", "against_full", "reference", "bars", "costs", "curves"),
    *("documents", "doubts", "export_card", "facts", "figures_of_test", "footprint", "formats"),
    *("hparams", "markup", "measures", "model_card", "page", "pictures", "plans", "plots"),
    *("report", "scaling", "schema", "stats", "summary", "table", "tables"),
    *("advice", "measured", "overhead", "score_schema", "sealed"),
)


def without(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of the tree without a dotted field."""
    first, _, rest = name.partition(".")
    kept = {key: x for key, x in tree.items() if rest or key != first}
    return kept | ({first: without(tree[first], rest)} if rest else {})


NESTED = [f"{group}.{name}" for group, fields in NESTED_FIELDS.items() for name in fields]


@pytest.mark.parametrize("name", [*RESULTS_FIELDS, *NESTED])
def test_a_missing_field_of_results_is_named(name: str):
    results = without(dict(run_of().results), name)
    with pytest.raises(InputError) as error:
        make_run(Path("runs/x"), results, ENV)
    message = str(error.value)
    assert message.startswith("runs/x/results.json: not written by jaxft.train")
    assert f"no field {name!r}" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ENV_FIELDS)
def test_a_missing_field_of_env_is_named(name: str):
    with pytest.raises(InputError, match=rf"runs/x/env\.json: .* no field '{name}'"):
        make_run(Path("runs/x"), run_of().results, without(ENV, name))


def test_a_misspelt_field_is_named_too():
    results = dict(run_of().results)
    results["selectt"] = results.pop("select")
    with pytest.raises(InputError, match="no field 'select'; did you mean 'selectt'"):
        make_run(Path("runs/x"), results, ENV)


def test_the_runs_in_the_docs_are_read(tmp_path: Path):
    folder = min(GRID.iterdir())
    run = read_run(folder)
    assert run.seed == run.results["seed"]
    assert set(partitions(run.results["memory"])) == {"frozen", "adapter", "head"}
    with pytest.raises(InputError, match=r"results\.json: not there"):
        read_run(tmp_path)


def test_flat_names_fields_by_dots():
    assert flat({"a": {"b": 1, "c": {"d": ()}}, "e": {}}) == {"a.b": 1, "a.c.d": ()}


def test_reporting_imports_no_jax():
    modules = [f"jaxft.reporting.{name}" for name in WITHOUT_JAX]
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"jax", "flax", "optax", "orbax", "clu", "torch", "transformers"}


def test_the_list_of_modules_is_whole():
    folder = Path(__file__).parents[2] / "jaxft" / "reporting"
    assert sorted(WITHOUT_JAX) == sorted(p.stem for p in folder.glob("[a-z]*.py"))
