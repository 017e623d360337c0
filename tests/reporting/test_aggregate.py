"""Groups: runs that differ in the seed alone, whatever order and folders they come in."""

import copy
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tables import results, scores

from jaxft.errors import InputError
from jaxft.peft.methods import METHODS
from jaxft.reporting.aggregate import METHOD_ORDER, READ, RunGroup, find, make_groups
from jaxft.reporting.schema import Run, make_run
from jaxft.training.selection import best_entry

CONFIG: dict[str, Any] = {
    "batch_size": 32,
    "data": {"dir": "", "source": "auto", "max_length": 128},
    "epochs": 3,
    "eval_batch_size": 64,
    "mesh": {"data": -1},
    "method": {"name": "lora", "rank": 8, "size": 64, "targets": ["query", "value"]},
    "model": {"name": "minilm", "dtype": "float32", "remat": "none"},
    "optim": {"learning_rate": 0.001},
    "save_every": 0,
    "seed": 0,
}
ENV = {
    "command": "python -m jaxft.train --config configs/acl_lora.py",
    "data_sha256": "d",
    "weights_sha256": "w",
    "devices": ["cpu"],
}


def history(seed: int, epochs: int = 3) -> list[dict[str, Any]]:
    """Epochs that differ between seeds."""
    dev = [scores([[5, 1], [2 + (seed + e) % 3, 4]]) for e in range(epochs)]
    return [
        {"epoch": e + 1, "step": 9 * (e + 1), "train_loss": (2 + 0.1 * seed) / (e + 1)}
        | {"dev": dev[e] | {"loss": 1 + 0.05 * seed - 0.1 * e}}
        for e in range(epochs)
    ]


def run_of(
    seed: int = 0,
    method: str = "lora",
    *,
    directory: str = "",
    env: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A run as train writes it; `fields` are dotted ones of its config.

    Full is better than the others, and a higher seed than a lower one.
    """
    config = copy.deepcopy(CONFIG)
    config["seed"], config["method"]["name"] = seed, method
    for name, value in (fields or {}).items():
        *groups, last = name.split(".")
        branch = config
        for group in groups:
            branch = branch[group]
        branch[last] = value
    better = 8 * (method == "full") + seed
    test = scores([[40 + better, 30 - better], [20 - seed, 40 + seed]])
    epochs = history(seed)
    content = results(
        method=method,
        seed=seed,
        config=config,
        test=test,
        last={"test": test, "dev": epochs[-1]["dev"], "epoch": 3},
        dev=best_entry(epochs)["dev"],
        history=epochs,
        versions={"jaxft": "0.1.0", "jax": "0.10.2"},
    )
    content = content | {"model": config["model"]["name"]} | changes
    name = directory or f"runs/{method}-{seed}-{sorted((fields or {}).items())}"
    return make_run(Path(name), content, ENV | (env or {}))


def names(runs: list[Run]) -> list[str]:
    return [group.label for group in make_groups(runs)[0]]


# ---------------------------------------------------------------- groups


def grid() -> list[Run]:
    tasks = ("acl_sup", "restaurant_sup")
    return [
        run_of(seed, method, fields=fields, task=task, directory=f"{task}{i}{method}{seed}")
        for task in tasks
        for i, fields in enumerate([{}, {"optim.learning_rate": 1e-4}])
        for method in ("full", "lora")
        for seed in (0, 1, 10)
    ]


@settings(max_examples=15, deadline=None)
@given(st.randoms())
def test_the_order_of_runs_changes_nothing(shuffler: random.Random):
    # With a copy, of which one is left out, and a field that only some configs have.
    runs = [*grid(), run_of(0, task="acl_sup", directory="copy"), run_of(0, fields={"new": 1})]
    expected = make_groups(runs)
    shuffler.shuffle(runs)
    assert make_groups(runs) == expected


def test_a_run_without_the_newer_fields_is_of_the_group_of_their_defaults():
    newer = {"objective": "auto", "metric": "auto", "class_weights": "", "label_smoothing": 0.0}
    chosen = {"objective": "single_label", "metric": "macro_f1"}
    runs = [run_of(0), run_of(1, fields=newer), run_of(2, fields=newer | chosen)]
    described = [run_of(3, fields=newer, **chosen), run_of(4, metric="mcc", fields=newer)]
    groups, _ = make_groups([*runs, *described])
    found = {group.label: [run.seed for run in group.runs] for group in groups}
    assert found == {"lora (metric macro_f1)": [0, 1, 2, 3], "lora (metric mcc)": [4]}


def test_cells_hold_the_seeds_of_a_setting():
    groups, notes = make_groups(grid())
    assert notes == []
    assert len(groups) == 8
    for group in groups:
        assert [run.seed for run in group.runs] == [0, 1, 10]
        assert len({str(run.results["config"]["optim"]) for run in group.runs}) == 1
    assert [group.label for group in groups[:4]] == [
        *("full (lr 0.0001)", "full (lr 0.001)"),
        *("lora (lr 0.0001)", "lora (lr 0.001)"),
    ]


def test_a_cell_alone_needs_no_variant():
    assert names([run_of(0, "full"), run_of(0), run_of(1)]) == ["full", "lora"]


def test_variants_name_what_differs():
    eight, sixteen = {"method.rank": 8}, {"method.rank": 16}
    runs = [run_of(fields=s | t) for s in (eight, sixteen) for t in ({}, {"epochs": 9})]
    assert sorted(names(runs)) == sorted(
        f"lora (epochs {e}, rank {r})" for e in (3, 9) for r in (8, 16)
    )
    # By size, not by letters.
    assert names([run_of(fields={"method.rank": r}) for r in (16, 2, 128)]) == [
        *("lora (rank 2)", "lora (rank 16)", "lora (rank 128)")
    ]
    wide = {"method.targets": ["query", "key", "value"]}
    assert names([run_of(fields=wide), run_of()]) == [
        *("lora (targets query+key+value)", "lora (targets query+value)")
    ]


def test_fields_of_the_same_name_are_told_apart():
    runs = [run_of(), run_of(fields={"data.max_length": 64, "method.max_length": 3})]
    assert "method.max_length" in names(runs)[0]
    assert "data.max_length" in names(runs)[0]


@pytest.mark.parametrize("field", ["data.dir", "data.source", "eval_batch_size", "save_every"])
def test_where_things_lie_is_no_variant(field: str):
    groups, _ = make_groups([run_of(0), run_of(1, fields={field: "elsewhere"})])
    assert [len(group.runs) for group in groups] == [2]


def test_what_a_method_does_not_read_is_no_variant():
    rank = {"method.rank": 16}
    assert names([run_of(0, "full"), run_of(1, "full", fields=rank)]) == ["full"]
    assert len(names([run_of(0, "lora"), run_of(1, "lora", fields=rank)])) == 2
    # Of a method that is not known, any field may matter.
    assert len(names([run_of(0, "new"), run_of(1, "new", fields=rank)])) == 2


def test_an_older_run_lacks_the_options_of_newer_methods_and_is_in_the_same_group():
    newer = run_of(1, fields={"method.vera_rank": 64, "method.adapters": [], "method.unfreeze": ""})
    assert len(names([run_of(0), newer])) == 1


def test_directories_are_shown_by_their_last_part():
    def models(*given: str) -> set[str]:
        runs = [run_of(fields={"model.name": name}) for name in given]
        return {group.model for group in make_groups(runs)[0]}

    assert models("/data/roberta", "org/scibert", "minilm") == {"roberta", "org/scibert", "minilm"}
    assert models("/a/bert", "/b/bert") == {"/a/bert", "/b/bert"}


def test_methods_come_in_their_usual_order():
    methods = ["pfeiffer", "new", "lora", "full", "another", "head"]
    expected = ["full", "head", "lora", "pfeiffer", "another", "new"]
    assert names([run_of(method=m) for m in methods]) == expected


def test_every_method_has_a_place_in_the_report():
    assert set(METHODS) == set(METHOD_ORDER)


def test_the_report_knows_the_options_that_a_method_reads():
    for name, method in METHODS.items():
        assert {"name"} | {field.name for field in fields(method.options)} == READ[name]


# ---------------------------------------------------------------- runs that do not go together


def test_a_copy_of_a_run_is_left_out_with_a_note():
    other = run_of(directory="runs/z-copy", timing={"train_s": 999.0})
    groups, notes = make_groups([run_of(directory="runs/a"), other, run_of(1)])
    first, second = groups[0].runs
    assert (str(first.directory), second.seed) == ("runs/a", 1)
    assert len(notes) == 1
    assert "runs/z-copy repeats runs/a" in notes[0]


def expect_error(runs: list[Run], *words: str) -> None:
    for given_order in (runs, runs[::-1]):
        with pytest.raises(InputError) as error:
            make_groups(given_order)
        assert all(word in str(error.value) for word in words)
        assert "\n" not in str(error.value)


def test_a_seed_with_two_results_is_an_error():
    other = run_of(directory="runs/b", test=scores([[1, 69], [0, 60]]))
    expect_error([run_of(directory="runs/a"), other], "runs/a", "runs/b", "scores differ")


@pytest.mark.parametrize("kind", ["data", "weights"])
def test_other_data_or_weights_in_a_cell_are_an_error(kind: str):
    other = run_of(1, directory="runs/b", env={f"{kind}_sha256": "other"})
    expect_error([run_of(directory="runs/a"), other], "runs/a", "runs/b", kind)


def test_other_test_sets_in_a_task_are_an_error():
    smaller = scores([[6, 1], [2, 4]])
    other = run_of(method="full", directory="runs/b", test=smaller, env={"data_sha256": "e"})
    expect_error([run_of(directory="runs/a"), other], "runs/a", "runs/b", "test sets")
    # In different tasks they are none.
    assert len(make_groups([run_of(), run_of(1, task="agnews_sup", test=smaller)])[0]) == 2


def test_other_test_texts_in_a_task_are_an_error_whatever_their_classes():
    def splits(test: str) -> dict[str, Any]:
        return {"splits_sha256": {"train": "a", "dev": "b", "test": test}, "data_sha256": test}

    other = run_of(method="full", directory="runs/b", env=splits("d"))
    expect_error([run_of(directory="runs/a", env=splits("c")), other], "runs/a", "runs/b", "test")
    few = {"splits_sha256": {"train": "few", "dev": "b", "test": "d"}, "data_sha256": "x"}
    groups, notes = make_groups([other, run_of(directory="runs/c", env=few)])
    assert len(groups) == 2
    assert notes == []


def test_of_older_runs_on_other_data_it_is_said_that_nobody_knows():
    runs = [run_of(), run_of(method="full", env={"data_sha256": "e"})]
    _, notes = make_groups(runs)
    assert len(notes) == 1
    assert notes[0].startswith("acl_sup: its runs were trained on different data")


@pytest.mark.parametrize("content", [None, [], "text", {}, {"task": "acl_sup"}])
def test_what_train_did_not_write_is_an_error(content: Any):
    with pytest.raises(InputError, match=r"results\.json: not written by jaxft\.train: no field"):
        make_run(Path("runs/x"), content, ENV)
    with pytest.raises(InputError, match=r"env\.json: not written by jaxft\.train: no field"):
        make_run(Path("runs/x"), run_of().results, content)


# ---------------------------------------------------------------- directories


def make_directory(path: Path, *files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in files:
        (path / name).write_text("{}")
    return path


FINISHED = ("config.json", "env.json", "results.json", "DONE")


def test_runs_are_found_at_any_depth(tmp_path: Path):
    deep = make_directory(tmp_path / "a" / "b" / "c", *FINISHED)
    flat = make_directory(tmp_path / "z", *FINISHED)
    begun = make_directory(tmp_path / "a" / "begun", "config.json", "env.json")
    killed = make_directory(tmp_path / "a" / "killed", "config.json", "env.json", "results.json")
    # What lies in a run is part of it; a checkpoint's folder is none.
    make_directory(flat / "model", *FINISHED)
    make_directory(tmp_path / "bert", "config.json", "model.safetensors")
    assert find([tmp_path]) == ([deep, flat], [begun, killed])
    assert find([flat]) == ([flat], [])


def test_a_run_counts_once(tmp_path: Path):
    run = make_directory(tmp_path / "runs" / "one", *FINISHED)
    (tmp_path / "link").symlink_to(run)
    assert find([run, tmp_path / "runs", tmp_path / "link"]) == ([run], [])


def test_a_missing_directory_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="no such directory"):
        find([tmp_path, tmp_path / "nowhere"])


def group_of(*seeds: int, method: str = "lora", **changes: Any) -> RunGroup:
    """A group for other tests."""
    return make_groups([run_of(seed, method, **changes) for seed in seeds])[0][0]
