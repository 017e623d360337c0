"""Which runs go into a process together, and which again and alone."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from jaxft.distributed.watchdog import EXIT_LOST
from jaxft.sweeping import schedule
from jaxft.sweeping.runs import BUSY, Bundle, GridRun, read_failure, record_failures
from jaxft.sweeping.schedule import due_bundles, is_final
from jaxft.sweeping.slurm import SlurmJobs

RUNS = [
    GridRun("lora-{seed}", "acl_sup", "minilm", "lora", "", s, (), shares=True) for s in range(3)
]


def due(tries: dict[str, int], retries: int = 2, **pauses: float) -> list[list[int]]:
    """The seeds of what is started; pauses in seconds by seed, as `seed0=5`."""
    not_before = {f"lora-{k.removeprefix('seed')}": time.monotonic() + s for k, s in pauses.items()}
    found = due_bundles(RUNS, tries, retries, not_before)
    return [[run.seed for run in bundle] for bundle in found]


def test_a_bundle_starts_as_a_whole() -> None:
    assert due({}) == [[0, 1, 2]]
    assert due({}, seed0=-1, seed1=-1, seed2=-1) == [[0, 1, 2]]
    assert due({}, seed1=5) == []


def test_the_last_try_is_alone() -> None:
    failed = {run.name: 1 for run in RUNS}
    assert due(failed, retries=2) == [[0, 1, 2]]
    assert due(failed, retries=1) == [[0], [1], [2]]
    assert due(failed, retries=1, seed1=5) == [[0], [2]]
    assert due({}, retries=0) == [[0, 1, 2]]  # the only one
    assert due({"lora-1": 2}) == [[0, 2], [1]]


def test_bad_input_is_final_for_a_cell_alone() -> None:
    bundle = tuple(RUNS)
    wrong, crashed = {"exit_code": 2}, {"exit_code": 1}
    assert is_final(wrong, was_last=False, bundle=bundle[:1])
    assert not is_final(wrong, was_last=False, bundle=bundle)
    assert not is_final(crashed, was_last=False, bundle=bundle[:1])
    assert is_final(crashed, was_last=True, bundle=bundle[:1])


class Ending:
    """A launcher whose processes end at once, in a way that is given."""

    description = "nothing"

    def __init__(self, workdir: Path, ends: Callable[[int, GridRun], int]) -> None:
        self.workdir, self.ends = workdir, ends
        self.starts = 0
        self._begun: list[Bundle] = []

    def capacity(self) -> int:
        return 1

    def running(self) -> list[Bundle]:
        return self._begun

    def start(self, bundles: Sequence[Bundle]) -> None:
        self._begun += bundles

    def ended(self, timeout: float) -> list[Bundle]:
        del timeout
        over, self._begun = self._begun, []
        for bundle in over:
            self.starts += 1
            assert self.starts < 50, "started for ever"
            record_failures(self.workdir, bundle, self.ends(self.starts, bundle[0]), asked=False)
        return over

    def stop(self, number: int) -> None:
        raise AssertionError(f"nobody asked for {number}")


def sweep_of(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, ends: Callable[[int, GridRun], int]
) -> tuple[int, schedule.Progress]:
    """How often one run is started with two retries, and what comes of it."""
    monkeypatch.setattr(schedule, "FIRST_PAUSE_S", 0.0)
    launcher = Ending(workdir, ends)
    progress = schedule.run_all(RUNS[:1], launcher, workdir, 2, lambda _: None)
    return launcher.starts, progress


@pytest.mark.parametrize("code", [-15, 143, -2, 130, EXIT_LOST, -9, 1])
def test_whatever_ends_a_worker_is_a_try(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, progress = sweep_of(tmp_path, monkeypatch, lambda *_: code)
    assert starts == 3
    assert progress.failures[RUNS[0].name]["exit_code"] == code


def test_a_worker_that_is_stopped_but_gets_on_is_started_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(start: int, run: GridRun) -> int:
        (tmp_path / run.name / "checkpoints" / str(10 * start)).mkdir(parents=True)
        if start == 8:
            (tmp_path / run.name / "DONE").touch()
            return 0
        return 143

    starts, progress = sweep_of(tmp_path, monkeypatch, ends)
    assert starts == 8
    assert not progress.failures


def test_a_cell_that_another_process_runs_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(start: int, run: GridRun) -> int:
        if start < 6:
            return BUSY
        (tmp_path / run.name).mkdir()
        (tmp_path / run.name / "DONE").touch()
        return 0

    starts, progress = sweep_of(tmp_path, monkeypatch, ends)
    assert starts == 6
    assert not progress.failures


@pytest.fixture
def heard_sigint() -> Iterator[None]:
    """Processes hear SIGINT, although a shell in the background has started this one without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heard_sigint")  # by which a local job is cancelled
def test_a_job_that_ends_without_beginning_its_run_is_a_try(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    settings = {"cluster": "local", "bundles_per_job": 1, "timeout_min": 5}
    jobs = SlurmJobs(RUNS, tmp_path, settings)
    jobs.start([tuple(RUNS[:1])])
    ((job, _),) = jobs._jobs
    job.cancel()
    ended, deadline = list[Bundle](), time.monotonic() + 60
    while not ended and time.monotonic() < deadline:
        ended = jobs.ended(0.1)
    assert ended == [tuple(RUNS[:1])]
    failure = read_failure(tmp_path, RUNS[0].name)
    assert failure is not None
    assert failure["exit_code"] == 1
