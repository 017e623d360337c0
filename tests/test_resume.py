"""What is continued, and what is left alone: runs at different steps, damaged checkpoints, DONE."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from commands import read, run, run_here, stop_at, train_command

from jaxft.run import workdir as rundir
from jaxft.training.event_log import read_log

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]


def saved_steps(run_dir: Path) -> list[int]:
    names = [path.name for path in (run_dir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def truncate_all(folder: Path) -> None:
    """Cuts every array file of one checkpoint, or of all, short."""
    for file in folder.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            os.truncate(file, file.stat().st_size // 2)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content and time of change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# ---------------------------------------------------------------- several runs


def test_a_further_seed_and_damaged_checkpoints_cost_the_other_runs_nothing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    def seeds(names: str) -> list[str]:
        return train_command(
            tiny_checkpoint, tmp_path / "{seed}", "--config.epochs=6", f"--config.seeds={names}"
        )

    first, second, third = (tmp_path / name for name in "123")
    # Two runs are stopped in their fourth epoch of eight steps.
    assert stop_at(26, second, seeds("1,2"), signal.SIGTERM) == 143
    kept = saved_steps(first)
    assert kept == saved_steps(second)
    stopped = kept[-1]
    epochs = [line for line in read_log(first / "metrics.jsonl") if "dev" in line]
    assert len(epochs) >= 3

    # A third one is killed while it catches up: the first two have lost nothing.
    stop_at(18, third, seeds("1,2,3"))
    assert saved_steps(first) == kept
    assert saved_steps(second) == kept
    assert 0 < saved_steps(third)[-1] < stopped

    # Now nothing of the second can be read. It begins anew, the third goes on, the first waits.
    truncate_all(second / "checkpoints")
    printed = run(seeds("1,2,3"))
    assert f"continuing {first} at step {stopped}" in printed
    assert f"continuing {third} at step" in printed
    assert f"continuing {second}" not in printed
    assert f"{second}, {third}: training to step {stopped}, where the others are" in printed
    for path in (first, second, third):
        assert (path / "DONE").exists()
        assert [entry["epoch"] for entry in read(path / "results.json")["history"]] == [
            *range(1, 7)
        ]
    # The epochs of the first that were done before the stop are those that it ended with.
    ended = [line for line in read_log(first / "metrics.jsonl") if "dev" in line]
    assert ended[: len(epochs)] == epochs
    # Without a second start each would have been undisturbed: the third to the others' rounding.
    assert [line["step"] for line in rundir.launches(first)] == [0, stopped, stopped]
    assert [line["step"] for line in rundir.launches(second)] == [0, stopped, 0]
    assert "Traceback" not in printed
    assert len(printed.splitlines()) < 150  # no hundreds of lines of libraries about the damage


# ---------------------------------------------------------------- the best epoch


@pytest.fixture(scope="module")
def best_before_last(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a run whose best epoch is not its last one, carried out: the first seed's."""
    for seed in range(6):
        workdir = tmp_path_factory.mktemp("best") / "run"
        arguments = train_command(
            *(tiny_checkpoint, workdir, "--config.optim.learning_rate=1e-2", "--config.epochs=8"),
            *("--config.optim.schedule=constant", "--config.optim.warmup=0"),
            f"--config.seed={seed}",
            method="full",
        )
        run_here(arguments)
        if read(workdir / "results.json")["best_epoch"] < 8:
            return arguments
    raise AssertionError("the last epoch was the best of all seeds")


def test_a_damaged_best_checkpoint_costs_that_epoch_and_not_the_run(
    best_before_last: list[str],
) -> None:
    flag = next(x for x in best_before_last if x.startswith("--workdir="))
    workdir = Path(flag.removeprefix("--workdir="))
    before = read(workdir / "results.json")
    best, last = before["best_epoch"], before["last"]["epoch"]
    assert best < last == 8
    # A kill right before DONE, and the best checkpoint cut short.
    (workdir / "DONE").unlink()
    truncate_all(workdir / "checkpoints" / str(8 * best))
    printed = run(best_before_last)
    assert (workdir / "DONE").exists()
    assert f"it was of epoch {best}, the best on dev" in printed
    assert (workdir / "bad_checkpoints" / str(8 * best)).is_dir()
    after = read(workdir / "results.json")
    assert after["lost_epochs"] == [best]
    # Only the latest two checkpoints are left; the better of them on dev takes its place.
    left = [entry for entry in before["history"] if entry["epoch"] >= last - 1]
    chosen = max(left, key=lambda entry: entry["dev"]["macro_f1"])
    assert after["best_epoch"] == after["selected_epoch"] == chosen["epoch"]
    assert after["dev"]["macro_f1"] == chosen["dev"]["macro_f1"]
    assert after["last"]["test"] == before["last"]["test"]
    assert "Traceback" not in printed
    assert "never retrieved" not in printed
    # The same command again shows it.
    assert "is done already" in run_here(best_before_last)


# ---------------------------------------------------------------- what showing a run may change


def test_showing_a_finished_run_on_other_devices_changes_no_file(
    best_before_last: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flag = next(x for x in best_before_last if x.startswith("--workdir="))
    workdir = tmp_path / "run"
    shutil.copytree(flag.removeprefix("--workdir="), workdir)
    before = snapshot(workdir)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    shown = [x for x in best_before_last if x != flag]
    printed = run([*shown, f"--workdir={workdir}", "--config.mesh.fsdp=4"])
    assert "is done already" in printed
    assert snapshot(workdir) == before


def test_where_a_run_began_is_kept_when_it_goes_on_elsewhere(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run's"  # a name that a shell splits
    targets = r"--config.method.targets=(r'.*/query$',)"
    arguments = train_command(tiny_checkpoint, workdir, "--config.epochs=6", targets)
    assert stop_at(10, workdir, arguments, signal.SIGTERM) == 143
    env = (workdir / "env.json").read_bytes()
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    run(arguments)
    assert (workdir / "env.json").read_bytes() == env
    one, two = rundir.launches(workdir)
    assert len(one["devices"]) == len(json.loads(env)["devices"]) == 1
    assert len(two["devices"]) == 2
    assert two["step"] > one["step"] == 0
    results = read(workdir / "results.json")
    assert results["launches"] == [one, two]
    # The command can be pasted into a shell as it is.
    monkeypatch.delenv("XLA_FLAGS")
    pasted = one["command"].replace("python", arguments[0], 1)
    assert "is done already" in run(["bash", "-c", pasted])


# ---------------------------------------------------------------- other data under the same name


def test_the_same_rows_cut_elsewhere_are_another_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [f'{{"text": "text {i} {"ab"[i % 2]}", "label": "{"xy"[i % 2]}"}}\n' for i in range(40)]

    def cut(train: int, dev: int) -> None:
        parts = {
            "train": rows[:train],
            "dev": rows[train : train + dev],
            "test": rows[train + dev :],
        }
        for name, part in parts.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(part))

    arguments = train_command(tiny_checkpoint, tmp_path / "run", "--config.epochs=1")
    arguments[3] = "--config=configs/custom.py"
    arguments[4] = "--config.data.source=local"
    arguments.append(f"--config.data.dir={tmp_path}")
    cut(24, 6)
    run_here(arguments)
    assert "is done already" in run_here(arguments)
    cut(12, 4)
    printed = run_here(arguments, expect=2)
    assert "the data (train, dev, test) changed since" in printed
    cut(24, 10)
    assert "the data (dev, test) changed since" in run_here(arguments, expect=2)
