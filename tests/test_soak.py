"""Short versions of the trials of docs/reliability.md, whose long versions are `scripts/soak`.

Each repetition must be as promised: real processes, real signals, and bits compared.
"""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from soak import disk, files, kept, kills, two
from soak.bench import Bench
from soak.report import PAGE, with_table
from soak.trial import Trial, repeat

pytestmark = pytest.mark.slow
TRIALS = {t.name: t for group in (disk, files, kept, kills, two) for t in group.TRIALS}
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "reliability"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One directory, so that the undisturbed run and the compiled programs are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield Bench(tmp_path_factory.mktemp("soak"))


def once(bench: Bench, name: str, number: int, directory: Path) -> dict:
    """One repetition of a trial, which must be as promised."""
    trial = TRIALS[name]
    record = trial.once(bench, directory, random.Random(f"{name} {number}"), number)
    assert record["wrong"] == []
    return record


def test_a_run_that_is_killed_inside_a_save_ends_with_the_same_bits(
    bench: Bench, tmp_path: Path
) -> None:
    record = once(bench, "kill", 1, tmp_path)
    assert record["code"] == -9
    assert record["repeated"] < 2 * kills.EVERY


# A truncated config.json, the launches of another run: restored. A log with a flipped bit: named.
FILES = {"config.json": 0, "launches.jsonl": 4, "metrics.jsonl": 1}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_run_is_never_silent(bench: Bench, name: str, tmp_path: Path) -> None:
    names = [str(path) for path in files.files_of(files.stopped(bench, "0"))]
    record = once(bench, "files", len(files.DAMAGES) * names.index(name) + FILES[name], tmp_path)
    assert record["result"] == ("named" if name == "metrics.jsonl" else "exact")


def test_a_changed_result_is_named_and_written_anew(bench: Bench, tmp_path: Path) -> None:
    finished = files.finished_files(bench.undisturbed("lora"))
    index = [str(path) for path in finished].index("results.json")
    once(bench, "finished", len(files.DAMAGES) * index + 1, tmp_path)


def test_a_second_command_on_a_directory_is_refused_at_once(bench: Bench, tmp_path: Path) -> None:
    once(bench, "two_runs", 0, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root may mount")
def test_a_full_disk_is_a_line_and_the_run_continues(bench: Bench, tmp_path: Path) -> None:
    once(bench, "full_disk", 0, tmp_path)


def test_the_latest_two_and_the_best_checkpoint_stay(bench: Bench, tmp_path: Path) -> None:
    for number in range(10):
        directory = tmp_path / str(number)
        directory.mkdir()
        once(bench, "kept", number, directory)


def test_a_trial_continues_at_its_count_and_keeps_what_went_wrong(tmp_path: Path) -> None:
    seen = []

    def once(bench: Bench, directory: Path, chance: random.Random, number: int) -> dict:
        seen.append(number)
        if number == 2:
            raise ValueError("no")
        return {"wrong": []}

    bench, output = Bench(tmp_path / "work"), tmp_path
    trial = Trial("t", 1, "a trial", 4, once)
    assert len(repeat(trial, bench, output, 2)) == 2
    records = repeat(trial, bench, output, None)
    assert seen == [0, 1, 2, 3]
    assert [bool(record["wrong"]) for record in records] == [False, False, True, False]
    assert (bench.work / "t-2").is_dir()
    assert not (bench.work / "t-1").exists()


def test_the_page_shows_the_counts_of_the_results() -> None:
    text = PAGE.read_text()
    assert with_table(text, RESULTS) == text
