"""Bundles of runs as jobs of SLURM, submitted by submitit; needs the extra `slurm`.

    jobs = SlurmJobs(runs, workdir, {"cluster": "slurm", "timeout_min": 240, "bundles_per_job": 1})
    jobs.start(bundles)          # one array job, `bundles_per_job` in each of its tasks
    jobs.ended(0.5)              # the bundles whose job has ended

A job runs its bundles one after the other, each in its own process, as on a single machine. When
the job's time runs out, or it is preempted, the running process saves and the job is queued again.
Stopping the sweep leaves the jobs to the cluster; <workdir>/slurm/ lists them.
"""

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from jaxft.errors import InputError, check_choice, nearest
from jaxft.io import read_json, write_json
from jaxft.sweeping.runs import STOPPED, Bundle, GridRun, State, record_failures, state_of
from jaxft.sweeping.worker import Share, run_bundle

# Without a fork server. SLURM signals every process of a job, and a server would be one of them.
CONTEXT = multiprocessing.get_context("spawn")
CLUSTERS = ("slurm", "local")
OWN = ("cluster", "bundles_per_job")  # fields of config.slurm that are not submitit's
# submitit's fields for every cluster; the others are named slurm_... there.
COMMON = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")
CRASHED = 1  # as an exit code
MOST_TIMEOUTS = 1000  # how often a job is queued again at its time limit
LOOK_S = {"slurm": 5.0, "local": 0.5}  # between two queries of the jobs' states


@dataclass
class BundlesJob:
    """A job's work: submitit calls it, and calls `checkpoint` when the job is preempted."""

    bundles: tuple[Bundle, ...]
    workdir: Path
    process: SpawnProcess | None = None

    def __call__(self) -> None:
        """Runs the runs that are not done."""
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(self.workdir / "xla"))
        for bundle in self.bundles:
            if all(state_of(self.workdir, run.name) is State.DONE for run in bundle):
                continue
            self.process = CONTEXT.Process(target=run_bundle, args=(bundle, self.workdir, Share()))
            self.process.start()
            self.process.join()
            code = self.process.exitcode or 0
            # A process of a job is stopped only together with the job, by SLURM or `checkpoint`.
            record_failures(self.workdir, bundle, code, asked=True)
            if code in STOPPED:
                break

    def checkpoint(self) -> Any:
        """Makes the running process save and end; returns the job to be queued again."""
        import submitit

        if self.process is not None and self.process.is_alive():
            self.process.terminate()
            self.process.join()
        return submitit.helpers.DelayedSubmission(BundlesJob(self.bundles, self.workdir))


class SlurmJobs:
    """The jobs of a sweep, including those of an earlier sweep in the same directory."""

    def __init__(self, runs: Sequence[GridRun], workdir: Path, settings: Mapping[str, Any]) -> None:
        """Prepares to submit, and finds the jobs that earlier sweeps have submitted.

        Raises:
          InputError: submitit or SLURM is missing, or a setting is not valid.
        """
        self._workdir = workdir.resolve()
        self._folder = self._workdir / "slurm"
        self._cluster = check_choice(settings["cluster"], CLUSTERS, "config.slurm.cluster")
        self._per_job = check_per_job(settings["bundles_per_job"])
        self._executor = make_executor(self._folder, settings)
        self._jobs: list[tuple[Any, list[Bundle]]] = self._find({run.name: run for run in runs})
        self.description = f"as jobs of {self._cluster}"

    def capacity(self) -> int:
        """Returns a large number: SLURM queues any number of jobs, and config.slurm limits it."""
        return 1_000_000

    def running(self) -> list[Bundle]:
        """Returns the bundles of all jobs that have not ended."""
        return [bundle for _, part in self._jobs for bundle in part]

    def start(self, bundles: Sequence[Bundle]) -> None:
        """Submits the bundles as one array."""
        if not bundles:
            return
        parts = [bundles[i : i + self._per_job] for i in range(0, len(bundles), self._per_job)]
        with self._executor.batch():
            jobs = [self._executor.submit(BundlesJob(tuple(part), self._workdir)) for part in parts]
        for job, part in zip(jobs, parts, strict=True):
            names = [[run.name for run in bundle] for bundle in part]
            write_json(self._record(job.job_id), {"job": job.job_id, "bundles": names})
            self._jobs.append((job, list(part)))

    def ended(self, timeout: float) -> list[Bundle]:
        """Returns the bundles of the jobs that have ended since the last call."""
        time.sleep(max(timeout, LOOK_S[self._cluster]))
        over = [(job, part) for job, part in self._jobs if job.done()]
        for job, part in over:
            self._jobs.remove((job, part))
            if job.exception() is not None:  # killed, or on a node that does not see its files
                for bundle in part:
                    record_failures(self._workdir, bundle, CRASHED, asked=False)
            self._record(job.job_id).unlink(missing_ok=True)
        return [bundle for _, part in over for bundle in part]

    def stop(self, number: int) -> None:
        """Leaves the jobs to the cluster, which runs them without the sweep."""
        del number
        self._jobs.clear()

    def _record(self, job_id: str) -> Path:
        """The file that lists the runs of a job. It is removed when the job has ended."""
        return self._folder / f"job-{job_id}.json"

    def _find(self, runs: Mapping[str, GridRun]) -> list[tuple[Any, list[Bundle]]]:
        """Returns the jobs of earlier sweeps that have not ended."""
        import submitit

        kind = submitit.SlurmJob if self._cluster == "slurm" else submitit.LocalJob
        found = []
        for path in sorted(self._folder.glob("job-*.json")):
            record = read_json(path)
            job: Any = kind(folder=self._folder, job_id=record["job"])
            if job.done():
                path.unlink(missing_ok=True)
            else:
                known = [[runs[n] for n in names if n in runs] for names in record["bundles"]]
                found.append((job, [tuple(bundle) for bundle in known if bundle]))
        return found


def check_per_job(number: Any) -> int:
    """Returns config.slurm.bundles_per_job if it is a whole number above 0."""
    if not isinstance(number, int) or number < 1:
        raise InputError(f"config.slurm.bundles_per_job: {number!r}; expected 1 or more")
    return number


def make_executor(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Returns submitit's executor with the job's parameters.

    Raises:
      InputError: submitit or SLURM is missing, or a setting is not valid.
    """
    try:
        import submitit
    except ImportError as err:
        raise InputError(
            '--launcher=slurm: submitit is not installed; pip install ".[slurm]" brings it'
        ) from err
    given = {name: value for name, value in settings.items() if name not in OWN}
    for name in ("nodes", "tasks_per_node", "ntasks_per_node"):
        if given.get(name, 1) != 1:
            raise InputError(f"config.slurm.{name}: {given[name]}; a run is one process of a node")
    parameters = {n if n in COMMON else f"slurm_{n}": value for n, value in given.items()}
    try:
        # submitit requeues a job three times by itself; a long run saves at any number of limits.
        executor = submitit.AutoExecutor(
            folder=folder, cluster=settings["cluster"], slurm_max_num_timeout=MOST_TIMEOUTS
        )
        executor.update_parameters(name="jaxft", **parameters)
    except RuntimeError as err:
        raise InputError(
            "--launcher=slurm: no srun on this machine; start the sweep where jobs are submitted, "
            "or try it with --config.slurm.cluster=local"
        ) from err
    except (NameError, ValueError, AssertionError, TypeError) as err:
        raise InputError(f"config.slurm: {parameter_message(str(err), given)}") from err
    return executor


def parameter_message(text: str, given: Mapping[str, Any]) -> str:
    """Returns submitit's message about a parameter as one line; it may list all parameters."""
    first, _, rest = text.strip().partition("Valid arguments: ")
    for name in given:
        if f"slurm_{name}'" in first:
            return f"no parameter '{name}'{nearest(name, rest.splitlines()[0].split(', '))}"
    return first.splitlines()[0]
