"""The commands end to end, on a tiny checkpoint and the bundled sample, as real processes."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import (
    ROOT,
    SAMPLE_TEST,
    environment,
    predict_command,
    read,
    rows_of,
    run,
    run_here,
    same_end,
    stop_at,
    train_command,
)

from jaxft.config import config_module, default_workdir
from jaxft.run.phases import PHASES
from jaxft.run.trials import directory, trials

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

# Labels that a lenient reader would turn into a missing value and a number.
WORDS = ("red", "null", "007")


@pytest.fixture(scope="module")
def finished(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(train_command(tiny_checkpoint, workdir))
    return workdir


def test_a_run_directory_holds_what_the_contract_names(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        *("config.json", "env.json", "metrics.jsonl", "tb", "checkpoints", "adapter"),
        *("predictions_test.jsonl", "results.json", "plots", "README.md", "DONE"),
    }
    results = read(finished / "results.json")
    assert results.keys() >= {
        *("task", "model", "method", "seed", "test", "test_unseen", "best_epoch", "last"),
        *("parameters", "memory", "timing", "data", "versions"),
    }
    assert results["test"].keys() >= {
        *("accuracy", "micro_f1", "macro_f1", "loss", "per_class", "confusion"),
        *("majority_accuracy", "collapsed"),
    }
    assert results["parameters"].keys() >= {"frozen", "adapter", "head", "trained", "total"}
    assert results["data"].keys() >= {
        *("train", "dev", "test", "test_in_train", "train_duplicates", "train_conflicts"),
        "truncated",
    }
    assert (results["data"]["train"], results["data"]["test"]) == (120, 60)
    compiled = results["memory"]["compiled"]
    assert compiled.keys() >= {"arguments", "outputs", "temporaries", "aliased", "peak"}
    assert results["memory"]["measured_peak"] > compiled["arguments"] > 0
    used, error = (results["memory"][f"measured_{x}"] for x in ("growth", "growth_percent"))
    if used is None:  # a kernel that does not tell a process's resident set
        assert error is None
    else:
        assert used > compiled["arguments"]
        assert error == pytest.approx(100 * (used / compiled["peak"] - 1))
    # What the device holds is what was planned, and the phases come in their order.
    planned = results["memory"]["plan"]["partitions"]
    assert results["memory"]["held"] == planned
    assert results["memory"]["plan"]["compiled"] == compiled
    phases = results["memory"]["phases"]
    if phases:
        assert list(phases) == list(PHASES)
        assert all(0 < x["bytes_in_use"] <= x["peak_bytes_in_use"] for x in phases.values())
        peaks = [x["peak_bytes_in_use"] for x in phases.values()]
        assert peaks == sorted(peaks)
    assert results["timing"].keys() >= {
        *("start_s", "compile_s", "train_s", "examples_per_s", "tokens_per_s", "padding_fraction"),
        "compiled_shapes",
    }
    assert results["timing"]["start_s"] > results["timing"]["compile_s"] > 0
    assert results["timing"]["compiled_shapes"] <= 8
    assert 0 <= results["timing"]["padding_fraction"] < 0.3
    assert sum(map(sum, results["test"]["confusion"])) == 60
    assert [entry["epoch"] for entry in results["history"]] == [1, 2, 3, 4]


def test_runs_train_together_as_if_alone_and_survive_a_kill(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    flags = ("--config.seeds=0,5", "--config.optim.learning_rates=1e-3,3e-4")

    def several(name: str) -> list[str]:
        return train_command(tiny_checkpoint, tmp_path / name, *flags)

    names = [f"seed-{seed}-lr-{rate}" for seed in (0, 5) for rate in (0.001, 0.0003)]
    assert "seed 5           lr 0.0003    epoch   4" in run_here(several("undisturbed"))
    first, slower, *_ = runs = [tmp_path / "undisturbed" / name for name in names]
    assert all((path / "DONE").exists() for path in runs)
    # The first is the run of `finished`.
    alone, member = (read(path / "results.json") for path in (finished, first))
    assert member["timing"]["seeds_together"] == 4
    assert member["config"] == alone["config"]
    assert member["test"]["accuracy"] == alone["test"]["accuracy"]
    for a, b in zip(alone["history"], member["history"], strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-4)
        assert b["dev"]["loss"] == pytest.approx(a["dev"]["loss"], rel=1e-4)
        assert b["dev"]["accuracy"] == a["dev"]["accuracy"]
    assert rates_of(first) == rates_of(finished)
    assert rates_of(slower) == pytest.approx([0.3 * rate for rate in rates_of(first)])
    # All others are other runs.
    assert len({read(path / "results.json")["history"][0]["train_loss"] for path in runs}) == 4

    # In directories that the flag names.
    pattern = "killed-seed-{seed}-lr-{learning_rate}"
    stop_at(17, tmp_path / f"killed-{names[-1]}", several(pattern))
    assert "continuing" in run_here(several(pattern))
    for name in names:
        same_end(tmp_path / "undisturbed" / name, tmp_path / f"killed-{name}")


def rates_of(workdir: Path) -> list[float]:
    """The learning rates that a run has logged."""
    lines = rows_of(workdir / "metrics.jsonl")
    return [line["train"]["learning_rate"] for line in lines if "train" in line]


DIRECTORIES = [
    ((), (), "x", ["x"]),
    ((), (), "x-{seed}", ["x-0"]),
    ((4,), (), "x", ["x/seed-4"]),
    ((4, 5), (), "x-{seed}", ["x-4", "x-5"]),
    ((), (1e-3, 3e-5), "x", ["x/lr-0.001", "x/lr-3e-05"]),
    ((), (1e-3, 3e-5), "{learning_rate}/{seed}", ["0.001/0", "3e-05/0"]),
    ((4, 5), (1e-3,), "x", ["x/seed-4-lr-0.001", "x/seed-5-lr-0.001"]),
    ((4, 5), (1e-3,), "{seed}", ["4", "5"]),
    ((4, 5), (1,), "{seed}-{learning_rate}", ["4-1.0", "5-1.0"]),
]


@pytest.mark.parametrize(("seeds", "rates", "workdir", "expected"), DIRECTORIES)
def test_each_run_has_a_directory_that_names_what_is_its_own(
    seeds: tuple[int, ...], rates: tuple[float, ...], workdir: str, expected: list[str]
) -> None:
    config = config_module().get_config()
    config.seeds, config.optim.learning_rates = seeds, rates
    found = [directory(config, Path(workdir), trial) for trial in trials(config)]
    assert [str(path) for path in found] == expected


def test_without_a_workdir_a_run_lies_where_it_would_alone() -> None:
    config = config_module().get_config()
    config.seed, config.optim.learning_rate = 4, 3e-4
    alone = default_workdir(config)
    config.seeds, config.optim.learning_rates = (3, 4), (1e-3, 3e-4)
    paths = [directory(config, None, trial) for trial in trials(config)]
    assert paths[3] == alone
    assert len(set(paths)) == 4


def test_the_same_command_again_shows_the_finished_run(
    finished: Path, tiny_checkpoint: Path
) -> None:
    before = (finished / "results.json").read_bytes()
    printed = run_here(train_command(tiny_checkpoint, finished))
    assert "is done already" in printed
    assert "macro-F1" in printed
    assert (finished / "results.json").read_bytes() == before


def test_another_run_is_not_written_over_this_one(finished: Path, tiny_checkpoint: Path) -> None:
    before = (finished / "results.json").read_bytes()
    printed = run_here(train_command(tiny_checkpoint, finished, "--config.method.rank=4"), expect=2)
    assert "method.rank = 8" in printed
    assert "Traceback" not in printed
    assert (finished / "results.json").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_run_ends_with_the_same_bits(
    number: signal.Signals, finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "interrupted"
    # save_every changes what is written, not what is computed; the rest is the undisturbed run.
    arguments = train_command(tiny_checkpoint, workdir, "--config.save_every=3")
    code = stop_at(12, workdir, arguments, number)
    assert code == (-9 if number == signal.SIGKILL else 143)
    assert not (workdir / "DONE").exists()
    assert "continuing" in run_here(arguments)
    same_end(finished, workdir)
    steps = [row["step"] for row in rows_of(workdir / "metrics.jsonl")]
    assert steps == sorted(steps)


def predict(run_dir: Path, texts: Path, output: Path) -> list[dict[str, Any]]:
    """The rows of a file, predicted in this process."""
    run_here(predict_command(run_dir, texts, output))
    return rows_of(output)


def test_predict_repeats_the_runs_own_test_predictions_bit_for_bit(
    finished: Path, tmp_path: Path
) -> None:
    run(predict_command(finished, SAMPLE_TEST, tmp_path / "out.jsonl"))
    again = rows_of(tmp_path / "out.jsonl")
    before = rows_of(finished / "predictions_test.jsonl")
    assert [row["text"] for row in again] == [row["text"] for row in before]
    for row, old in zip(again, before, strict=True):
        assert row["prediction"] == old["prediction"]
        assert row["probabilities"] == old["probabilities"]


def test_predict_takes_plain_text_longer_than_training_saw(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("We use their parser .\nNA\n" + "very long text " * 60)
    rows = predict(finished, tmp_path / "texts.txt", tmp_path / "out.jsonl")
    assert [row["text"] for row in rows[:2]] == ["We use their parser .", "NA"]
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-9 for row in rows)


@pytest.mark.parametrize("method", ["full", "head", "bitfit", "houlsby", "pfeiffer"])
def test_every_method_trains_to_a_result_and_predicts(
    method: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / method
    run_here(train_command(tiny_checkpoint, workdir, "--config.epochs=1", method=method))
    results = read(workdir / "results.json")
    assert results["method"] == method
    assert (results["parameters"]["frozen"] == 0) == (method == "full")
    (tmp_path / "texts.txt").write_text("We use their parser .\n")
    assert len(predict(workdir, tmp_path / "texts.txt", tmp_path / "out.jsonl")) == 1


def test_pairs_and_merged_tasks_have_scores_for_the_whole_and_each(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "merged"
    overrides = ("--config.task=restaurant_fs,laptop_fs", "--config.epochs=1")
    printed = run_here(train_command(tiny_checkpoint, workdir, *overrides))
    results = read(workdir / "results.json")
    assert results["labels"][0] == "restaurant:negative"
    assert results["tasks"].keys() == {"restaurant", "laptop"}
    assert sum(scores["examples"] for scores in results["tasks"].values()) == 120
    assert "restaurant" in printed
    test = ROOT / "jaxft" / "data" / "samples" / "laptop" / "test.json"
    rows = [{"term": e["term"], "sentence": e["sentence"]} for e in read(test).values()]
    texts = tmp_path / "pairs.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(predict(workdir, texts, tmp_path / "out.jsonl")) == 60


def test_the_users_own_pairs_train_and_predict_from_a_table(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = tmp_path / "mine"
    data.mkdir()
    rows = [
        f"{i}\tIs it {word} ?\tNA, it is {word} {i} .\t{word}" for i in range(20) for word in WORDS
    ]
    for split in ("train", "test"):
        (data / f"{split}.tsv").write_text("\n".join(["key\tq\ta\tclass", *rows]) + "\n")
    workdir = tmp_path / "run"
    own = (
        *(f"--config.data.dir={data}", "--config.data.source=local"),
        *("--config.data.columns.text=q", "--config.data.columns.pair=a"),
        *("--config.data.columns.label=class", "--config.data.columns.id=key"),
        "--config.data.labels=('red','null','007')",
    )
    arguments = train_command(tiny_checkpoint, workdir, *own, "--config.epochs=1")
    arguments[3] = "--config=configs/custom.py"
    assert "duplicate id" in run_here(arguments, expect=2)
    arguments.remove("--config.data.columns.id=key")
    assert "6 of 60 train examples held out" in run_here(arguments)
    assert read(workdir / "results.json")["labels"] == list(WORDS)
    texts = tmp_path / "new.csv"
    texts.write_text('text,pair\n"Is it, well, red ?",It is red .\n')
    (row,) = predict(workdir, texts, tmp_path / "out.jsonl")
    assert row["text"] == "Is it, well, red ?"
    assert row["probabilities"].keys() == set(WORDS)


@pytest.fixture(scope="module")
def dry(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a dry run printed, with all that it imported, and its directory."""
    workdir = tmp_path_factory.mktemp("runs") / "dry"
    _, *rest = train_command(tiny_checkpoint, workdir, "--dry_run")
    with pytest.MonkeyPatch.context() as patch:
        # transformers is imported for a tokenizer that has not been kept.
        patch.setenv("JAXFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run([sys.executable, "-X", "importtime", *rest]), workdir


def test_a_dry_run_checks_counts_compiles_and_writes_nothing(dry: tuple[str, Path]) -> None:
    printed, workdir = dry
    assert "adapter" in printed
    assert "temporaries" in printed
    assert not workdir.exists()


def test_no_command_imports_torch_where_there_is_one(dry: tuple[str, Path]) -> None:
    pytest.importorskip("torch")
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", dry[0], re.MULTILINE))
    assert "torch" not in imported
    assert imported >= {"jax", "transformers"}


# Python's own finder of files, to which torch and TensorFlow are not there.
WITHOUT_TORCH = """
import runpy, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in ("torch", "tensorflow")
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def test_training_and_prediction_need_neither_torch_nor_tensorflow(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for arguments in (
        train_command(tiny_checkpoint, tmp_path / "run", "--config.epochs=1"),
        predict_command(tmp_path / "run", SAMPLE_TEST, tmp_path / "out.jsonl"),
    ):
        module, rest = arguments[2], arguments[3:]
        source = f"{WITHOUT_TORCH}\nsys.argv = {[module, *rest]!r}; "
        source += f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        run([sys.executable, "-c", source])
    assert (tmp_path / "out.jsonl").exists()


def test_eight_devices_train_as_one_does(
    finished: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = train_command(tiny_checkpoint, tmp_path / "eight")
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, env={**environment(), **flags}
    )
    assert done.returncode == 0, done.stderr
    one, eight = (read(p / "results.json") for p in (finished, tmp_path / "eight"))
    for a, b in zip(one["history"], eight["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["dev"]["loss"] == pytest.approx(b["dev"]["loss"], rel=1e-4)
