"""A task that is one file outside of the package is loaded as jaxft's own are."""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from jaxft.data import tasks
from jaxft.data.readers import ASPECT_COLUMNS
from jaxft.data.tasks import CATALOGUE, Columns, TaskSpec, find, find_task, load, register, registry
from jaxft.errors import InputError
from jaxft.reporting.facts import dataset_names
from jaxft.sweeping.expand import full_task


@pytest.fixture
def weather() -> Iterator[ModuleType]:
    before = dict(registry._TASKS), dict(CATALOGUE)
    path = Path(__file__).with_name("outside_task.py")
    spec = importlib.util.spec_from_file_location("outside_task", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for known, old in zip((registry._TASKS, CATALOGUE), before, strict=True):
        known.clear()
        known.update(old)


def put(directory: Path, module: ModuleType, count: int = 50) -> Path:
    directory.mkdir(parents=True)
    (directory / "train.tabs").write_text("".join(module.TEXT.format(i=i) for i in range(count)))
    return directory


def test_a_file_outside_the_package_adds_a_task(weather: ModuleType, tmp_path: Path) -> None:
    folder = put(tmp_path / "weather", weather)
    dataset = load("weather_sup", data_dir=str(tmp_path), split_seed=7)
    assert dataset.labels == ("up", "down")
    assert [len(s) for s in (dataset.train, dataset.dev, dataset.test)] == [81, 9, 10]
    assert dataset.notes[0] == "drawn with 7"
    assert "no test file: 10 of 100 train examples held out by jaxft" in dataset.notes[1]
    assert dataset.origin.startswith(f"local files in {folder} (differs from the published files")
    drawn = load("weather_fs", data_dir=str(tmp_path), few_shot=6)
    assert len(drawn.train) == 6
    assert drawn.test == load("weather", data_dir=str(tmp_path)).test
    sample = replace(weather.SPEC, sample=folder)
    register(sample)
    both = load("weather_fs,acl_fs", source="sample")
    assert both.labels[:3] == ("weather:up", "weather:down", "acl:Background")
    assert both.origin.startswith("weather: bundled sample (written for jaxft, not Weather talk)")


def test_the_rest_of_jaxft_knows_it(weather: ModuleType, tmp_path: Path) -> None:
    assert dataset_names("weather_fs,acl_sup,elsewhere") == "Weather talk and ACL-ARC and elsewhere"
    assert full_task("weather+acl_fs") == "weather_sup,acl_fs"
    assert find("weather").epochs == 2
    with pytest.raises(InputError, match="did you mean 'weather_fs'"):
        load("waether_fs")
    with pytest.raises(InputError, match=r"weather has no bundled sample"):
        load("weather", source="sample")
    (tmp_path / "weather").mkdir()
    with pytest.raises(InputError, match=r"no train file \(train\.tabs, or \.gz of it\)"):
        find_task("weather", data_dir=str(tmp_path), source="auto")


def test_a_task_without_a_read_function_or_published_files(
    weather: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAXFT_DATA", raising=False)
    register(TaskSpec("terms", "Terms", columns=ASPECT_COLUMNS))
    (tmp_path / "terms").mkdir()
    rows = "".join(f"{i},t{i},s{i},{'xy'[i % 2]}\n" for i in range(40))
    for split in ("train", "test"):
        (tmp_path / "terms" / f"{split}.csv").write_text(f"id,term,sentence,polarity\n{rows}")
    dataset = load("terms", data_dir=str(tmp_path))
    assert dataset.labels == ("x", "y")  # as they are in train
    assert dataset.train[1].pair == f"s{dataset.train[1].id}"
    assert dataset.origin == f"local files in {tmp_path / 'terms'}"
    assert "terms" not in CATALOGUE
    with pytest.raises(InputError, match="no data for task terms: looked in no published files"):
        load("terms")


def test_what_may_not_be_registered(weather: ModuleType) -> None:
    for name in ("a,b", "a+b", "acl_fs", "x_sup", "", "_x", "a:b"):
        with pytest.raises(InputError, match="expected letters"):
            register(TaskSpec(name, "title"))
    with pytest.raises(InputError, match="task x: a label occurs twice in a, b, a"):
        register(TaskSpec("x", "title", ("a", "b", "a")))
    with pytest.raises(InputError, match="task acl: the name is taken by ACL-ARC"):
        register(TaskSpec("acl", "My citations"))
    again = register(replace(weather.SPEC, columns=Columns("words")))
    assert find("weather") == again
    assert tasks.names()[:5] == ("restaurant", "laptop", "acl", "agnews", "custom")


def test_a_label_that_is_no_class_is_refused_by_its_line(
    weather: ModuleType, tmp_path: Path
) -> None:
    directory = put(tmp_path / "weather", weather)
    text = (directory / "train.tabs").read_text()
    (directory / "train.tabs").write_text(text + "Down\tbad day\n\n")
    with pytest.raises(InputError, match=r"train\.tabs:\d+: unknown label 'Down'.*'down'"):
        load("weather", data_dir=str(tmp_path))


def test_numbers_beside_names_that_nobody_put_in_order_are_refused(
    weather: ModuleType, tmp_path: Path
) -> None:
    register(TaskSpec("kinds", "Kinds"))
    (tmp_path / "kinds").mkdir()
    rows = {"train": ["HUM", "ABBR", "LOC"] * 10, "test": ["0", "1", "2"]}
    for split, labels in rows.items():
        lines = "".join(f"text {i},{label}\n" for i, label in enumerate(labels))
        (tmp_path / "kinds" / f"{split}.csv").write_text(f"text,label\n{lines}")
    with pytest.raises(InputError, match="is a number, and train has names: ABBR, HUM, LOC"):
        load("kinds", data_dir=str(tmp_path))


def test_columns_of_a_task_that_has_its_own_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.columns: only task 'custom' reads it"):
        load("acl", source="sample", columns=Columns(label="section"))
