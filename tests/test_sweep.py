"""`python -m jaxft.sweep` as real processes: grids that run once, killed at any moment, on SLURM.

Every run is a real run of jaxft.train, on a tiny checkpoint and 16 examples of the bundled sample.
What is covered where: here a grid of six runs is killed five times; the same test with 102 runs
and 100 kills is scripts/kill_trial.sh, too long for every push (docs/results/kill_trial.md).
"""

import importlib.util
import json
import os
import pty
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from commands import environment as environment_of_a_process
from processes import wait_until

from jaxft import cli, sweep
from jaxft.run import second_copy
from jaxft.sweeping.runs import is_locked

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

ROOT = Path(__file__).parents[1]
SEEDS = 3
ROWS = int(os.environ.get("JAXFT_TRIAL_ROWS", "1"))  # of each method
RUNS = 2 * SEEDS * ROWS
KILLS = int(os.environ.get("JAXFT_TRIAL_KILLS", "5"))
SEED = int(os.environ.get("JAXFT_TRIAL_SEED", "0"))

TABLE = """
from configs.tables import grid


def get_config(arg=""):
    config = grid.get_config()
    config.model.names = ({model!r},)
    config.tasks = ("restaurant_fs",)
    config.methods = ("full", "lora")
    config.seeds = tuple(range({seeds}))
    config.variant.update({{str(i): {{"optim": {{"clip": 1.0 + i}}}} for i in range({rows})}})
    config.overrides.update(epochs=2, batch_size=8, select="last")
    config.overrides.optim.learning_rate = 0.001
    config.overrides.data.update(source="sample", few_shot=16, max_length=24)
    config.overrides.per_method = {{"full": {{"epochs": 2}}}}
    return config
"""


@pytest.fixture(scope="module")
def environment(shared_compilations: None) -> dict[str, str]:
    """The sweeps' variables; each program is compiled once."""
    return {**environment_of_a_process(), "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def table(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of RUNS runs: one half in full, each by itself, the other with LoRA, together."""
    file = tmp_path_factory.mktemp("tables") / "tiny.py"
    file.write_text(TABLE.format(model=str(tiny_checkpoint), seeds=SEEDS, rows=ROWS))
    return file


def command(table: Path, workdir: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "jaxft.sweep", f"--config={table}"),
        *(f"--workdir={workdir}", *more),
    ]


def run(arguments: list[str], environment: dict[str, str], expect: int = 0) -> str:
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=7200
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def undisturbed(
    table: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The directory of a sweep that ran in peace, and what it printed."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, run(command(table, workdir), environment)


def runs_of(workdir: Path) -> list[Path]:
    return sorted(path.parent for path in workdir.glob("*/config.json"))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def finished(workdir: Path) -> dict[str, tuple[int, bytes]]:
    """What there is of each run that is done: when it was, and with what."""
    return {
        run.name: ((run / "DONE").stat().st_mtime_ns, (run / "results.json").read_bytes())
        for run in runs_of(workdir)
        if (run / "DONE").exists()
    }


# ---------------------------------------------------------------- a grid in peace


def test_every_cell_is_a_run_and_a_row_its_mean(undisturbed: tuple[Path, str]) -> None:
    workdir, printed = undisturbed
    runs = runs_of(workdir)
    assert len(runs) == RUNS
    assert finished(workdir).keys() == {run.name for run in runs}
    assert f"[{RUNS}/{RUNS}] done: " in printed
    rows = json.loads((workdir / "table.json").read_text())
    assert [(row["method"], row["missing"]) for row in rows] == [("full", []), ("lora", [])]
    for row in rows:
        found = [read(workdir / run["directory"] / "results.json") for run in row["runs"]]
        assert [r["seed"] for r in found] == list(range(SEEDS))
        for name in ("accuracy", "macro_f1"):
            values = [r["test"][name] for r in found]
            assert row[name]["mean"] == pytest.approx(statistics.mean(values))
            assert row[name]["std"] == pytest.approx(statistics.stdev(values))
        assert len({r["test"]["loss"] for r in found}) == SEEDS  # of other seeds, other runs
        mean, std = (100 * row["macro_f1"][x] for x in ("mean", "std"))
        assert f"{mean:.1f} ± {std:.1f}" in printed
        assert f"{mean:.1f} ± {std:.1f}" in (workdir / "table.md").read_text()


def test_cells_are_what_the_commands_in_the_logs_make_of_them(
    undisturbed: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    workdir, _ = undisturbed
    full, lora = runs_of(workdir)[0], runs_of(workdir)[SEEDS:]
    logs = sorted((workdir / "logs").glob("*.log"))
    assert [log.stem for log in logs] == [run.name for run in runs_of(workdir)[: SEEDS + 1]]
    for log, runs in ((logs[0], [full]), (logs[-1], lora)):
        (line,) = [x for x in log.read_text().splitlines() if x.startswith("$ python -m jaxft")]
        arguments = shlex.split(line)[2:-1]
        place = tmp_path / log.stem
        run([sys.executable, *arguments, f"--workdir={place}-{{seed}}"], environment)
        for seed, there in enumerate(runs):
            again, before = (read(x / "results.json") for x in (Path(f"{place}-{seed}"), there))
            assert before["timing"]["seeds_together"] == len(runs)
            for name in ("test", "history", "config"):
                assert again[name] == before[name]


def test_the_same_command_again_runs_nothing(
    undisturbed: tuple[Path, str], table: Path, environment: dict[str, str]
) -> None:
    workdir, _ = undisturbed
    before = finished(workdir), (workdir / "table.json").read_bytes()
    printed = run(command(table, workdir), environment)
    assert f"{RUNS} runs ({RUNS} done)" in printed
    assert "running" not in printed
    assert (finished(workdir), (workdir / "table.json").read_bytes()) == before
    listed = run(command(table, workdir, "--dry_run", "--config.seeds=0,99"), environment)
    assert listed.count("\ndone ") + listed.startswith("done ") == 2
    assert listed.count("\nwaiting ") == 2
    assert "--config.seed=99" in listed  # in full
    assert "--config.seeds=0,99" in listed  # LoRA


def test_on_a_terminal_the_table_is_drawn_in_place(
    undisturbed: tuple[Path, str], table: Path, environment: dict[str, str]
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(table, undisturbed[0]),
        cwd=ROOT,
        env=environment | {"COLUMNS": "120"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while part := read_terminal(ours):
        seen += part
    assert process.wait(timeout=60) == 0
    live, _, end = seen.rpartition(b"\x1b[2K")  # the live table is erased in the end
    for drawn in (live, end):
        assert drawn.count(b"restaurant_fs, tiny-bert0: full") >= 1
        assert drawn.count(b"restaurant_fs, tiny-bert0: lora") >= 1


def read_terminal(file: int) -> bytes:
    """The next bytes of a terminal; none once its last process has closed it."""
    try:
        return os.read(file, 1 << 16)
    except OSError:
        return b""


# ---------------------------------------------------------------- workers that die at their start

# The fork server imports this first. The first process that it forks counts the devices.
AT_FORK = """
import os, sys, threading, time

def keep_on(number):
    while True:
        time.sleep(0.2)
        os.kill(os.getpid(), number)

def end():
    with open(os.environ["END_COUNT"], "a") as file:
        file.write("x")
    number, first, before = (int(os.environ[f"END_{x}"]) for x in ("BY", "FROM", "BEFORE"))
    if first <= os.path.getsize(os.environ["END_COUNT"]) < before:
        if number == 9:
            os.kill(os.getpid(), number)
        # Again and again: the server ignores SIGTERM, and its children do until they begin.
        threading.Thread(target=keep_on, args=(number,), daemon=True).start()

if any("forkserver" in argument for argument in sys.orig_argv):
    os.register_at_fork(after_in_child=end)
"""


def ending(
    environment: dict[str, str], folder: Path, number: signal.Signals, first: int, before: int
) -> dict[str, str]:
    """An environment in which a fork server's children of these numbers end at once."""
    (folder / "sitecustomize.py").write_text(AT_FORK)
    return environment | {
        "PYTHONPATH": str(folder),
        "END_BY": str(int(number)),
        "END_FROM": str(first),
        "END_BEFORE": str(before),
        "END_COUNT": str(folder / "count"),
    }


def test_a_first_worker_that_is_killed_before_its_log_is_open_is_tried_again(
    table: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    killed = ending(environment, tmp_path, signal.SIGKILL, 2, 3)
    one = command(table, tmp_path / "sweep", "--config.seeds=0", "--config.methods=lora")
    printed = run(one, killed)
    assert len(finished(tmp_path / "sweep")) == ROWS
    assert "Traceback" not in printed
    # The one that counts the devices, the one that was killed, and one for each run.
    assert (tmp_path / "count").stat().st_size == 2 + ROWS


def test_workers_that_somebody_stops_are_given_up_after_the_retries(
    table: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    stopped = ending(environment, tmp_path, signal.SIGTERM, 2, 1000)
    one = command(table, tmp_path / "sweep", "--config.seeds=0", "--config.methods=lora")
    printed = run([*one, "--retries=1"], stopped, expect=1)
    assert "killed by SIGTERM" in printed
    # One process that counts the devices, and two tries a run.
    assert (tmp_path / "count").stat().st_size == 1 + 2 * ROWS


# ---------------------------------------------------------------- a grid that is killed


def attempts(workdir: Path) -> int:
    """How many times a run has begun so far."""
    return sum(log.read_text().count("\n$ ") for log in (workdir / "logs").glob("*.log"))


def disturb(process: subprocess.Popen[str], rng: random.Random) -> tuple[str, int]:
    """Kills the sweep or one of its processes; returns which and how."""
    here = psutil.Process(process.pid)
    below = here.children(recursive=True)
    server = [p for p in below if any("forkserver" in part for part in cmdline(p))]
    runs = [p for p in below if p.ppid() in {s.pid for s in server}]
    groups = {"sweep": [here], "run": runs, "server": [s for s in server if s not in runs]}
    name = rng.choice([name for name, found in groups.items() if found])
    number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
    rng.choice(groups[name]).send_signal(number)
    return name, number


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_grid_killed_at_any_moment_ends_like_one_in_peace(
    undisturbed: tuple[Path, str], table: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    peace, _ = undisturbed
    workdir = tmp_path / "killed"
    arguments = command(table, workdir, "--workers=2", "--retries=1000")
    begun = {run.name: (run / "config.json").stat().st_mtime for run in runs_of(peace)}
    cell_s = statistics.median((peace / n / "DONE").stat().st_mtime - t for n, t in begun.items())
    killed: list[tuple[str, int]] = []
    done: dict[str, tuple[int, bytes]] = {}
    code = None
    while code != 0:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        last = ("", 0)
        while len(killed) < KILLS and last[0] != "sweep":
            # Mostly while a run runs, at times before one does.
            before = attempts(workdir)
            if rng.random() < 0.8:
                wait_until(lambda n=before: attempts(workdir) > n, process)
            time.sleep(rng.uniform(0, 1.5 * cell_s))
            if process.poll() is not None:
                break
            last = disturb(process, rng)
            killed.append(last)
            # What was finished stays as it was.
            now = finished(workdir)
            assert {name: now[name] for name in done} == done
            done = now
        printed, _ = process.communicate(timeout=7200)
        code = process.returncode
        # On SIGTERM the sweep ends with its table once it has started, at once before.
        expected = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15)}
        assert code in (expected[last[1]] if last[0] == "sweep" else (0,)), (killed, printed)
    print(f"killed {len(killed)} times: {killed}")
    now = finished(workdir)
    assert {name: now[name] for name in done} == done
    assert len(runs_of(workdir)) == len(now) == RUNS
    assert not any(is_locked(workdir, name) for name in now)
    for name in ("table.json", "table.md"):
        assert (workdir / name).read_bytes() == (peace / name).read_bytes()
    for name in now:
        again, before = (read(place / name / "results.json") for place in (workdir, peace))
        assert again["history"] == before["history"]
        for split in ("test", "test_unseen"):
            # Of seeds together one may have been done before the kill, and the sum of another's
            # losses is taken in another order then.
            losses = [results[split].pop("loss") for results in (again, before)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-6)
            assert again[split] == before[split]


def test_sigterm_has_the_cells_saved_and_two_sweeps_at_once_share_the_rest(
    undisturbed: tuple[Path, str], table: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    # Two runs, of which the first has many epochs.
    more = ("--config.seeds=0", "--config.overrides.per_method.full.epochs=20")
    arguments = command(table, tmp_path, *more)
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: any(tmp_path.glob("*/checkpoints/6")), process)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM; the same command continues" in printed
    (partial,) = runs_of(tmp_path)
    log = tmp_path / "logs" / f"{partial.name}.log"
    assert "stopped by SIGTERM at step" in log.read_text()
    assert not (tmp_path / "logs" / f"{partial.name}.failed").exists()

    both = [
        subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert (
        outputs[0].partition("task, model: method")[2].splitlines()[:3]
        == (outputs[1].partition("task, model: method")[2].splitlines()[:3])
    )
    # The interrupted run went on, once; the other was begun once.
    texts = [file.read_text() for file in (tmp_path / "logs").glob("*.log")]
    assert sorted(text.count("\n$ ") for text in texts) == [1, 2]
    assert "continuing" in log.read_text()


# ---------------------------------------------------------------- runs that fail


def test_what_crashes_is_tried_again_what_is_wrong_is_not_and_the_rest_is_done(
    undisturbed: tuple[Path, str], table: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    peace, _ = undisturbed
    for done in runs_of(peace):
        shutil.copytree(done, tmp_path / done.name)
    full, *_, lora = runs_of(tmp_path)
    assert ("-full-" in full.name, "-lora-" in lora.name) == (True, True)
    # One whose checkpoints cannot be written, one that holds another run, in both copies of it.
    (full / "DONE").unlink()
    shutil.rmtree(full / "checkpoints")
    (full / "checkpoints").write_text("no directory")
    (lora / "DONE").unlink()
    config = read(lora / "config.json")
    (lora / "config.json").write_text(json.dumps({**config, "epochs": 7}))
    second_copy.keep(lora)
    printed = run(command(table, tmp_path, "--retries=1"), environment, expect=1)
    assert printed.count(f"] failed: {full.name}: FileExistsError") == 2
    assert printed.count(f"] failed: {lora.name}: train: --workdir:") == 1
    summary = printed.splitlines()[-3:-1]
    assert f"failed: {full.name}: FileExistsError" in summary[0]
    assert f"failed: {lora.name}: train: --workdir:" in summary[1]
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["missing"] for row in rows] == [[0], [SEEDS - 1]]
    # Put right, the same command does what is left.
    (full / "checkpoints").unlink()
    (lora / "config.json").write_text(json.dumps(config))
    second_copy.keep(lora)
    run(command(table, tmp_path), environment)
    assert (tmp_path / "table.json").read_bytes() == (peace / "table.json").read_bytes()
    assert not list((tmp_path / "logs").glob("*.failed"))


# ---------------------------------------------------------------- jobs


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the extra slurm")
def test_jobs_run_the_cells_and_a_preempted_one_saves_and_is_queued_again(
    undisturbed: tuple[Path, str], table: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    peace, _ = undisturbed
    more = (
        *("--launcher=slurm", "--config.slurm.cluster=local", "--config.slurm.bundles_per_job=2"),
        *("--config.seeds=0", "--config.overrides.per_method.full.epochs=20"),
    )
    process = subprocess.Popen(
        command(table, tmp_path, *more),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: any(tmp_path.glob("*/checkpoints/6")), process)
    # What SLURM sends to every process of a job that must give way; the local executor's own
    # controller would not pass it on.
    below = psutil.Process(process.pid).children(recursive=True)
    job = next(p for p in below if "submitit.core._submit" in p.cmdline())
    for member in [*job.children(recursive=True), job]:
        member.send_signal(signal.SIGUSR2)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    assert "[2/2] done: " in printed
    full, lora = runs_of(tmp_path)
    log = (tmp_path / "logs" / f"{full.name}.log").read_text()
    assert "stopped by SIGTERM at step" in log
    assert "continuing" in log
    assert list((tmp_path / "slurm").glob("*_submitted.pkl"))
    assert not list((tmp_path / "slurm").glob("job-*.json"))
    # There with its other seeds, here alone.
    before, after = (read(place / lora.name / "results.json") for place in (peace, tmp_path))
    assert [x["timing"]["seeds_together"] for x in (before, after)] == [SEEDS, 1]
    for there, here in zip(before["history"], after["history"], strict=True):
        assert here["train_loss"] == pytest.approx(there["train_loss"], rel=1e-4)


# ---------------------------------------------------------------- bad input


@pytest.fixture
def no_left_over_config() -> Iterator[None]:
    """config_flags keeps the module of the last config file."""
    sys.modules.pop("config_config", None)
    yield
    sys.modules.pop("config_config", None)


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported without its logging.config, which closes the streams that pytest captures."""
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    pytest.importorskip("submitit")


Refused = Callable[[list[str]], str]


@pytest.fixture
def refused(
    no_left_over_config: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Runs a command that must refuse, and returns its one line."""

    def run(arguments: list[str]) -> str:
        argv = ["sweep", *arguments]
        monkeypatch.setattr(sys, "argv", argv)  # config_flags reads it
        code = cli.guarded(sweep.main, argv)
        error = capsys.readouterr().err
        assert code == 2
        assert error.count("\n") == 1, error
        return error

    return run


WRONG = [
    (["--launcher=slrum"], "--launcher: unknown value 'slrum'; expected one of local, slurm"),
    (["--workers=-1"], "--workers: -1; expected 0 or more"),
    (["--retries=many"], "--retries"),
    (["--detach"], "--detach: only with --launcher=slurm"),
    (["--launcher=slurm", "--workers=2"], "set config.slurm.array_parallelism"),
    (["--config.sedes=1"], "config.sedes: no such field; did you mean 'seeds'?"),
    (["--config.seeds=one"], "config.seeds: 'one'"),
    (["--config.methods=lroa"], "did you mean 'lora'"),
    (["--config.overrides.epocs=1"], "did you mean 'epochs'"),
    (["--config.overrides.optim.clp=1"], "did you mean 'optim.clip'"),
    (
        ["--config.overrides.optm.clip=1"],
        "no field 'overrides.optm.clip'; did you mean 'optim.clip'?",
    ),
    (["--config.overrides.batch_size=0"], "batch_size: 0; expected a whole number above 0"),
    (["--config.model.names=./no/such"], "no such directory: ./no/such"),
    (["--config.tasks=acl_sub"], "did you mean 'acl_sup"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[given[0] for given, _ in WRONG])
def test_bad_input_is_one_line_before_anything_is_written(
    given: list[str], said: str, table: Path, tmp_path: Path, refused: Refused
) -> None:
    line = refused([f"--config={table}", f"--workdir={tmp_path}", *given])
    assert said in line
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("submitit")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config.slurm.cluster=slurn"], "config.slurm.cluster: unknown value 'slurn'"),
        (["--config.slurm.partitoin=x"], "no parameter 'partitoin'; did you mean 'partition'?"),
        (["--config.slurm.timeout_min=long"], "--config.slurm.timeout_min=long"),
        (["--config.slurm.nodes=2"], "config.slurm.nodes: 2; a run is one process of a node"),
        (["--config.slurm.bundles_per_job=0"], "bundles_per_job: 0; expected 1 or more"),
    ],
)
def test_wrong_job_parameters_are_one_line(
    given: list[str], said: str, table: Path, tmp_path: Path, refused: Refused
) -> None:
    arguments = [f"--config={table}", f"--workdir={tmp_path}", "--launcher=slurm"]
    assert said in refused([*arguments, "--config.slurm.cluster=local", *given])


@pytest.mark.skipif(shutil.which("srun") is not None, reason="this machine has SLURM")
@pytest.mark.usefixtures("submitit")
def test_without_slurm_the_way_out_is_named(table: Path, tmp_path: Path, refused: Refused) -> None:
    arguments = [f"--config={table}", f"--workdir={tmp_path}", "--launcher=slurm"]
    line = refused(arguments)
    assert "no srun on this machine" in line
    assert "--config.slurm.cluster=local" in line
