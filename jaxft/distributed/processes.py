"""Several processes as one run: they start together, agree on their input, and end together.

    start("auto")                       # before anything asks JAX for devices
    with error_barrier():               # an error of one process is raised on all of them
        dataset = load("acl_sup")
    agree({"data": len(dataset.train)})     # or all raise an InputError that names the field
    if is_writer():
        print(dataset.origin)

JAX detects the cluster (SLURM, Open MPI, Kubernetes, Cloud TPU). Without a cluster, the variables
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID describe the processes.

The processes exchange text through the key-value store of JAX's coordination service. Collectives
on the devices would not do: they need a mesh, and the devices may not have been found yet. The
store is not public in JAX (`private_jax`); orbax uses the same calls.
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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from jaxft.distributed import private_jax, watchdog
from jaxft.distributed.private_jax import ClusterType
from jaxft.errors import InputError, check_choice

MODES = ("auto", "on", "off")
HEARTBEAT_S = 60
TIMEOUT_S = 300  # how long the processes wait for each other at the start
ALONE = "; --distributed=off runs one process alone"
NOTIFIED = "the other processes have been notified and are stopping"
# A week. A wait ends earlier: all processes arrive, or the watchdog ends this one.
FOREVER_MS = 7 * 24 * 3600 * 1000

# XLA's status codes for errors that another process may have caused. RESOURCE_EXHAUSTED (out of
# memory) is not one of them.
LOSS_CODES = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED")

_rounds = itertools.count()


@dataclass(frozen=True)
class Membership:
    """The number of processes of the run, and the number of this one."""

    count: int
    index: int


_joined: Membership | None = None  # set by `start`


def start(mode: str, heartbeat: int = HEARTBEAT_S, timeout: int = TIMEOUT_S) -> None:
    """Joins this process to the others of its run, if there are others. Only the first one prints.

    Args:
      mode: "on", "off", or "auto": on if JAX or the environment reports several processes.
      heartbeat: a process that sends no heartbeat for this many seconds counts as lost.
      timeout: seconds to wait for the other processes.

    Raises:
      InputError: there is no cluster to join, or its description is not usable.
    """
    global _joined
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
        # `parameters` has detected what the user did not set.
        cluster_detection_method="deactivate",
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=heartbeat,
        shutdown_timeout_seconds=heartbeat,
    )
    _joined = Membership(processes, process)
    if not is_writer():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 open until the process ends
    sys.excepthook = end_with_traceback
    atexit.register(stop)


def stop() -> None:
    """Shuts down the distributed runtime.

    It waits for the other processes, for one heartbeat timeout at most.
    """
    jax.distributed.shutdown()
    watchdog.unwatch()


def several_are_named(environ: Mapping[str, str]) -> bool:
    """Whether this process was started as one of several.

    A single SLURM task or TPU host is not: it needs no coordinator, and JAX would give a SLURM task
    only one of its GPUs.
    """
    if "JAX_COORDINATOR_ADDRESS" in environ:
        return True
    try:
        cluster = detected(environ)
        return cluster is not None and cluster.get_process_count() > 1
    except InputError:
        raise
    except Exception as err:
        raise detection_failed(err) from err


def detected(environ: Mapping[str, str]) -> ClusterType | None:
    """Returns JAX's class for the cluster that this process runs in, or None.

    The choice is JAX's, with one exception: a Kubernetes pod must belong to an indexed Job. JAX
    takes every pod for a cluster and asks the API server about it, which many pods may not do.
    """
    for cluster in private_jax.cluster_types():
        if cluster.opt_in_only_method:
            continue
        if cluster.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in environ:
            continue
        if cluster.is_env_present():
            return cluster
    return None


def parameters(environ: Mapping[str, str], timeout: int) -> tuple[str, int, int, list[int] | None]:
    """Returns `(coordinator's address, process count, this process's number, its devices or None)`.

    Raises:
      InputError: one of them is neither set nor detected, or is not valid.
    """
    address = environ.get("JAX_COORDINATOR_ADDRESS")
    processes = whole(environ, "JAX_NUM_PROCESSES")
    process = whole(environ, "JAX_PROCESS_ID")
    devices: Sequence[int] | None = devices_given(environ)
    if address is None or processes is None or process is None:
        try:
            found = private_jax.detect_parameters(address, processes, process, devices, timeout)
        except InputError:
            raise
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
    """Returns the whole number in an environment variable, or None."""
    text = environ.get(name)
    if text is not None and not text.isdecimal():
        raise InputError(f"{name}: {text!r}; expected a whole number")
    return None if text is None else int(text)


def devices_given(environ: Mapping[str, str]) -> list[int] | None:
    """Returns the numbers in JAX_LOCAL_DEVICE_IDS, or None."""
    text = environ.get("JAX_LOCAL_DEVICE_IDS", "")
    if not re.fullmatch(r"(\d+(,\d+)*)?", text):
        raise InputError(f"JAX_LOCAL_DEVICE_IDS: {text!r}; expected whole numbers, e.g. 0,1")
    return [int(number) for number in text.split(",")] if text else None


def detection_failed(error: Exception) -> InputError:
    """Returns the error of a cluster detection as one line; each cluster raises its own kinds."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"--distributed: a cluster was detected, but not its processes: {reason}{ALONE}"
    )


def check_port(address: str) -> None:
    """Raises InputError if the coordinator cannot listen; jaxlib 0.10.2 would crash (SIGSEGV)."""
    if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return
    try:
        with socket.create_server(("", int(address.rsplit(":", 1)[1]))):
            pass
    except (OSError, OverflowError) as err:
        raise InputError(f"coordinator {address}: cannot listen there ({err})") from err


def membership() -> Membership:
    """Returns the number of processes and the number of this one.

    After `start` it is known without the devices, for which `jax.process_count` would ask. A
    program that called `jax.distributed.initialize` itself has its devices found here.
    """
    if _joined is None and jax.distributed.is_initialized():
        return Membership(jax.process_count(), jax.process_index())
    return _joined or Membership(1, 0)


def count() -> int:
    """Returns the number of processes."""
    return membership().count


def index() -> int:
    """Returns this process's number."""
    return membership().index


def is_writer() -> bool:
    """Whether this is the first process, the one that prints and writes files."""
    return index() == 0


def exchange(value: Any) -> list[Any]:
    """Returns the values of all processes (JSON), in their order. All processes must call it."""
    if count() == 1:
        return [value]
    key, client = f"jaxft/{next(_rounds)}", private_jax.coordination_client()
    client.key_value_set(f"{key}/{index()}", json.dumps(value))
    client.wait_at_barrier(key, FOREVER_MS)
    values = dict(client.key_value_dir_get(key))
    return [json.loads(values[f"{key}/{i}"]) for i in range(count())]


def broadcast(value: Any) -> Any:
    """Returns the writer's value (JSON). All processes must call it."""
    return exchange(value if is_writer() else None)[0]


def agree(values: Mapping[str, Any]) -> None:
    """Raises InputError on every process unless all processes pass the same values (JSON).

    The message names the first value that differs, and the processes on which it does.
    """
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
    """Re-raises on every process an exception that any process raises in this block.

    So no process blocks waiting for the one that failed. A process that did not fail itself raises
    an InputError with the message of the one that did.

    Raises:
      InputError: it was raised here, or by another process, whose number the message then gives.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as err:
        error = err
    messages = exchange(None if error is None else message_of(error))
    failed = [i for i, message in enumerate(messages) if message is not None]
    if error is not None and not isinstance(error, InputError):
        error.add_note(NOTIFIED)
        raise error
    if error is not None and len(set(messages)) == 1:
        raise error
    if failed:
        # One part for each message, with all the processes that raised it.
        parts = {
            line: named([i for i in failed if messages[i] == line])
            for line in (messages[i] for i in failed)
        }
        raise InputError("; ".join(f"{who}: {line}" for line, who in parts.items())) from error


def message_of(error: Exception) -> str:
    """Returns an error's message, with its type unless it is an InputError."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def named(processes: list[int]) -> str:
    """Returns `process 1` or `processes 1, 2`."""
    numbers = ", ".join(map(str, processes))
    return f"process{'es' if len(processes) > 1 else ''} {numbers}"


def shown(value: Any) -> str:
    """Returns a value for a message; a long one, such as a digest, is cut short."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def check_shared(directory: Path, wait_s: float = 30.0) -> None:
    """Raises InputError on every process unless all see the file that the writer makes here.

    Args:
      wait_s: how long to wait for the file; NFS may show another host's file some seconds late.
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
                    f"--workdir: {directory} is another directory on process 0; it must be on a "
                    "file system that all processes share, because each writes its part of a "
                    "checkpoint"
                )
    finally:
        if is_writer():
            token.unlink()


def appears(path: Path, wait_s: float) -> bool:
    """Whether a file exists, or appears within that time."""
    end = time.monotonic() + wait_s
    # Listing the directory asks the NFS server; Path.exists may be answered from NFS's cache.
    while not (path.parent.is_dir() and path.name in os.listdir(path.parent)):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def end_with_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints an error's traceback and ends this process.

    If the other processes do not know of the error, it ends at once. A normal exit would wait for
    them, while they wait for this process in a collective.
    """
    if may_be_a_loss(error):
        watchdog.wait()
    traceback.print_exception(kind, error, trace)
    if not others_know(error):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def others_know(error: BaseException) -> bool:
    """Whether the other processes have been notified of an error, so that they do not wait."""
    return NOTIFIED in getattr(error, "__notes__", ())


def may_be_a_loss(error: BaseException | None) -> bool:
    """Whether this may be the error of a collective after another process was lost.

    JAX reports the lost process some seconds later, and the watchdog prints it. The error is a
    JaxRuntimeError, or a ValueError if JAX notices while it starts the collective.
    """
    while error is not None:
        if re.match(rf"({'|'.join(LOSS_CODES)}): ", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
