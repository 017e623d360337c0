"""Several processes as one run: started, kept in agreement, ended together.

    start("auto")                       # before anything asks JAX for devices
    with error_barrier():               # an error of one process is raised on all of them
        dataset = load(...)
    agree({"data": fingerprint})       # or all raise an InputError that names the field
    if is_writer():
        ...

JAX's own detection of clusters (SLURM, Open MPI, Kubernetes, Cloud TPU) is the engine. Without a
cluster, JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say the same by hand.

The processes talk through the key-value store of JAX's coordination service, not by collectives on
the devices: it takes text, needs no mesh, and works while the devices are still being found. It is
not public in JAX; orbax builds on the same calls. Nothing else in jaxft uses jax._src.
"""

import atexit
import itertools
import json
import os
import re
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax._src import distributed
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils

from jaxft.distributed import watchdog
from jaxft.errors import InputError, check_choice

MODES = ("auto", "on", "off")
HEARTBEAT_S = 60
TIMEOUT_S = 300  # that the processes wait for each other at the start
ALONE = "; --distributed=off runs one process alone"
TOLD = "the other processes were told, and stop"
FOREVER_MS = 7 * 24 * 3600 * 1000  # a wait ends by an answer, or with the process waited for

# XLA's codes for what is not this process's own doing; running out of memory is.
LOSS_CODES = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED")

_rounds = itertools.count()


def start(mode: str, heartbeat: int = HEARTBEAT_S, timeout: int = TIMEOUT_S) -> None:
    """Joins this process to the others of its run, if there are others; one of them prints.

    Args:
      mode: "on", "off", or "auto": on if JAX's detection or the environment names several.
      heartbeat: seconds without one after which a process counts as lost.
      timeout: seconds to wait for the others.

    Raises:
      InputError: nothing is found to join, or what is found is not usable.
    """
    check_choice(mode, MODES, "--distributed")
    if heartbeat < 1:
        raise InputError(f"--heartbeat: {heartbeat}; expected 1 or more seconds")
    if mode == "off" or (mode == "auto" and not several_are_named(os.environ)):
        return
    address, processes, process, devices = parameters(os.environ, timeout)
    if process == 0:
        check_port(address)
    watchdog.watch(watchdog.Connection(address, process, processes, heartbeat, timeout))
    jax.distributed.initialize(
        address,
        processes,
        process,
        devices,
        # Once is enough, and what was given by hand is meant.
        cluster_detection_method="deactivate",
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=heartbeat,
        shutdown_timeout_seconds=heartbeat,
    )
    if not is_writer():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 open to the end
    sys.excepthook = end_with_traceback
    atexit.register(stop)


def stop() -> None:
    """Leaves the others, who do the same: waits for them, a heartbeat's timeout at most."""
    jax.distributed.shutdown()
    watchdog.unwatch()


def several_are_named(environ: Mapping[str, str]) -> bool:
    """Whether this process was started as one of several.

    One task of SLURM or one TPU host runs alone: it needs no coordinator, and JAX would give a
    SLURM task one GPU of all that it has.
    """
    if "JAX_COORDINATOR_ADDRESS" in environ:
        return True
    try:
        cluster = detected(environ)
        return cluster is not None and cluster.get_process_count() > 1
    except Exception as err:
        raise detection_failed(err) from err


def detected(environ: Mapping[str, str]) -> type[ClusterEnv] | None:
    """Returns JAX's class for the cluster this process runs in, or None.

    As JAX chooses it, but that a pod of Kubernetes must be one of an indexed Job: every pod looks
    like a cluster to JAX, which then asks the API server, often in vain.
    """
    for cluster in ClusterEnv._cluster_types:
        if cluster.opt_in_only_method:
            continue
        if cluster.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in environ:
            continue
        if cluster.is_env_present():
            return cluster
    return None


def parameters(environ: Mapping[str, str], timeout: int) -> tuple[str, int, int, list[int] | None]:
    """Returns `(coordinator's address, processes, this one's number, its devices or None)`.

    Raises:
      InputError: one of them is neither given nor detected, or makes no sense.
    """
    address = environ.get("JAX_COORDINATOR_ADDRESS")
    processes = whole(environ, "JAX_NUM_PROCESSES")
    process = whole(environ, "JAX_PROCESS_ID")
    devices: Sequence[int] | None = devices_given(environ)
    if address is None or processes is None or process is None:
        try:
            found = ClusterEnv.auto_detect_unset_distributed_params(
                address, processes, process, devices, None, timeout
            )
        except Exception as err:
            raise detection_failed(err) from err
        address, processes, process, devices = found
    if address is None or processes is None or process is None:
        raise InputError(
            "--distributed: no cluster detected (SLURM, Open MPI, Kubernetes, Cloud TPU); set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID for every "
            f"process{ALONE}"
        )
    if not re.fullmatch(r".+:\d+", address):
        raise InputError(f"JAX_COORDINATOR_ADDRESS: {address!r}; expected HOST:PORT")
    if not 0 <= process < processes:
        raise InputError(f"JAX_PROCESS_ID: {process}; expected 0 to {processes - 1}")
    return address, processes, process, list(devices) if devices else None


def whole(environ: Mapping[str, str], name: str) -> int | None:
    """Returns a whole number of the environment, or None."""
    text = environ.get(name)
    if text is not None and not text.isdecimal():
        raise InputError(f"{name}: {text!r}; expected a whole number")
    return None if text is None else int(text)


def devices_given(environ: Mapping[str, str]) -> list[int] | None:
    """Returns JAX_LOCAL_DEVICE_IDS, as JAX reads it."""
    text = environ.get("JAX_LOCAL_DEVICE_IDS", "")
    if not re.fullmatch(r"(\d+(,\d+)*)?", text):
        raise InputError(f"JAX_LOCAL_DEVICE_IDS: {text!r}; expected whole numbers, e.g. 0,1")
    return [int(number) for number in text.split(",")] if text else None


def detection_failed(error: Exception) -> InputError:
    """What a detection raises, each of which has its own ways to fail, as one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"--distributed: a cluster was detected, but not its processes: {reason}{ALONE}"
    )


def check_port(address: str) -> None:
    """Raises InputError if the coordinator cannot listen; jaxlib 0.10.2 ends with SIGSEGV then."""
    if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return
    try:
        with socket.create_server(("", int(address.rsplit(":", 1)[1]))):
            pass
    except (OSError, OverflowError) as err:
        raise InputError(f"coordinator {address}: cannot listen there ({err})") from err


def count() -> int:
    """Returns the number of processes; unlike jax.process_count, without asking for devices."""
    return distributed.global_state.num_processes


def index() -> int:
    """Returns this process's number."""
    return distributed.global_state.process_id


def is_writer() -> bool:
    """Whether this is the process that prints and writes files: the first."""
    return index() == 0


def exchange(value: Any) -> list[Any]:
    """Returns what each process gives (JSON), in their order. All of them must call it."""
    if count() == 1:
        return [value]
    key, client = f"jaxft/{next(_rounds)}", distributed.global_state.client
    assert client is not None
    client.key_value_set(f"{key}/{index()}", json.dumps(value))
    client.wait_at_barrier(key, FOREVER_MS)
    given = dict(client.key_value_dir_get(key))
    return [json.loads(given[f"{key}/{i}"]) for i in range(count())]


def broadcast(value: Any) -> Any:
    """Returns what the writer gives (JSON)."""
    return exchange(value if is_writer() else None)[0]


def agree(values: Mapping[str, Any]) -> None:
    """Raises InputError on every process unless all give the same values (JSON), by name."""
    rows = exchange(dict(values))
    for name, value in rows[0].items():
        others = [i for i, row in enumerate(rows) if row.get(name) != value]
        if others:
            raise InputError(
                f"{name} differs: {shown(rows[others[0]].get(name))} on {named(others)}, "
                f"{shown(value)} on process 0; each process must be given the same config and data"
            )


@contextmanager
def error_barrier() -> Iterator[None]:
    """Re-raises on every process what any process raises in this block.

    So no process blocks while it waits for the one that failed.

    Raises:
      InputError: what was raised here; or what another process raised, with its number.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as err:
        error = err
    said = exchange(None if error is None else message_of(error))
    failed = [i for i, message in enumerate(said) if message is not None]
    if error is not None and not isinstance(error, InputError):
        error.add_note(TOLD)
        raise error
    if error is not None and len(set(said)) == 1:
        raise error
    if failed:
        lines = {said[i]: named([j for j in failed if said[j] == said[i]]) for i in failed}
        raise InputError("; ".join(f"{who}: {line}" for line, who in lines.items())) from error


def message_of(error: Exception) -> str:
    """The message of bad input; of anything else its kind, too."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def named(processes: list[int]) -> str:
    """`process 1`, or `processes 1, 2`."""
    numbers = ", ".join(map(str, processes))
    return f"process{'es' if len(processes) > 1 else ''} {numbers}"


def shown(value: Any) -> str:
    """A value for a message; the beginning of a digest will do."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def check_shared(directory: Path, wait_s: float = 30.0) -> None:
    """Raises InputError on every process unless each sees what the writer writes in a directory.

    Args:
      wait_s: NFS may show another host's file some seconds late.
    """
    if count() == 1:
        return
    token = directory / f".shared-{broadcast(uuid.uuid4().hex)}"
    with error_barrier():
        if is_writer():
            token.touch()
    try:
        with error_barrier():
            if not appears(token, wait_s):
                raise InputError(
                    f"--workdir: {directory} is not what process 0 writes to; it must be on a file "
                    "system that all processes share, for each writes its part of a checkpoint"
                )
    finally:
        if is_writer():
            token.unlink()


def appears(path: Path, wait_s: float) -> bool:
    """Whether a file is there, or comes within that time."""
    end = time.monotonic() + wait_s
    # A listing asks the server, where a look at the name may be answered from what NFS cached.
    while not (path.parent.is_dir() and path.name in os.listdir(path.parent)):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def preempted(step: int) -> bool:
    """Whether to save and stop behind this step; all processes must ask after each.

    JAX's runtime catches SIGTERM on any of them and has all stop at the same step. A handler of
    Python's own for it, installed after `start`, would take that away.
    """
    return count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def end_with_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints an error's traceback and ends this process, at once if the others do not know of it.

    A usual exit would wait for them, while they wait for it in a collective.
    """
    if may_be_a_loss(error):
        watchdog.wait()
    traceback.print_exception(kind, error, trace)
    if TOLD not in getattr(error, "__notes__", ()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def may_be_a_loss(error: BaseException | None) -> bool:
    """Whether this is how a collective fails when another process was lost.

    JAX soon says which one, and `lost` reports it. JAX raises a JaxRuntimeError, or a ValueError if
    it notices while it starts the collective.
    """
    while error is not None:
        if re.match(rf"({'|'.join(LOSS_CODES)}): ", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
