"""Several processes, started for real: they agree, fail together, and say who was lost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest

from jaxft.distributed import processes, watchdog
from jaxft.errors import InputError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HEARTBEAT_S = 6

START = """
import json, signal, sys, time
from pathlib import Path
sys.argv[0] = "train.py"
from jaxft import cli
from jaxft.errors import InputError
from jaxft.distributed import processes
"""


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def by_hand(process: int, port: int) -> dict[str, str]:
    return {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(process),
    }


def by_slurm(process: int, port: int) -> dict[str, str]:
    """What srun sets for two tasks of a step on this host."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "JAX_COORDINATOR_PORT": str(port),
    }


def launch(source: str, variables: dict[str, str]) -> subprocess.Popen:
    """Starts Python on the source of a process."""
    # JAX warns of proxies, of which the way to this host has none.
    here = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.Popen(
        [sys.executable, "-c", START + source],
        cwd=ROOT,
        env={**here, "JAX_PLATFORMS": "cpu", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch_two(source: str, variables: object = by_hand) -> list[subprocess.Popen]:
    port = free_port()
    return [launch(source, variables(process, port)) for process in (0, 1)]


def one_line(text: str) -> str:
    """The text, which must be one line of the command's."""
    assert re.fullmatch(r"train: [^\n]+\n", text), text
    return text


AGREEMENT = """
def said_by(check):
    try:
        with processes.error_barrier():
            check()
    except InputError as err:
        return str(err)

def fail(on, message="file.csv:3: bad"):
    def check():
        if processes.index() in on:
            raise InputError(message)
    return check

def compare(**values):
    try:
        processes.agree(values)
    except InputError as err:
        return str(err)

processes.start("auto", heartbeat=60, timeout=60)
me = processes.index()
shared, own = Path(sys.argv[1]), Path(sys.argv[1]) / str(me)
own.mkdir()
found = {
    "count": processes.count(),
    "index": me,
    "writer": processes.is_writer(),
    "exchanged": processes.exchange({"from": me}),
    "broadcast": processes.broadcast(["written by", me]),
    "none": said_by(lambda: None),
    "all": said_by(fail({0, 1})),
    "one": said_by(fail({1})),
    "different": said_by(lambda: fail({0, 1}, f"no file {me}")()),
    "same": compare(seed=1, data="a" * 64),
    "data": compare(seed=1, data="ab"[me] * 64),
    "seed": compare(seed=me, data="a" * 64),
    "shared": said_by(lambda: processes.check_shared(shared)),
}
try:
    processes.check_shared(own, wait_s=0.5)
except InputError as err:
    found["own"] = str(err)
found["left"] = [path.name for path in own.iterdir()] + [path.name for path in shared.glob(".*")]
print(json.dumps(found), file=sys.__stdout__)
print("for the one who watches")
"""


@pytest.mark.parametrize("variables", [by_hand, by_slurm])
def test_two_processes_find_each_other_and_agree(variables: object, tmp_path: Path) -> None:
    source = f"sys.argv[1:] = [{str(tmp_path)!r}]\n" + AGREEMENT
    processes = launch_two(source, variables)
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    for i, (out, err) in enumerate(ended):
        assert err == ""
        assert ("for the one who watches" in out) == (i == 0)
        found = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
        assert (found["count"], found["index"], found["writer"]) == (2, i, i == 0)
        assert found["exchanged"] == [{"from": 0}, {"from": 1}]
        assert found["broadcast"] == ["written by", 0]
        assert found["none"] is None
        assert found["all"] == "file.csv:3: bad"
        assert found["one"] == "process 1: file.csv:3: bad"
        assert found["different"] == "process 0: no file 0; process 1: no file 1"
        assert found["same"] is None
        assert re.match(r"data differs: b{12}\.\.\. on process 1, a{12}\.\.\. on", found["data"])
        assert found["seed"].startswith(
            "seed differs: 1 on process 1, 0 on process 0; each process"
        )
        assert found["shared"] is None
        assert "file system that all processes share" in found["own"]
        assert found["left"] == []


UP = f"""
processes.start("on", heartbeat={HEARTBEAT_S}, timeout=60)
print("up", flush=True, file=sys.__stdout__)
time.sleep(600)  # in C: no thread of Python's could be sure to end it
"""


def test_losing_process_0_is_one_line_on_the_other_whatever_it_waits_for() -> None:
    first, second = launch_two(UP)
    for process in (first, second):
        assert process.stdout.readline() == "up\n"
    first.kill()
    killed = time.monotonic()
    line = one_line(second.communicate(timeout=HEARTBEAT_S + 30)[1])
    assert time.monotonic() - killed < HEARTBEAT_S + 30
    assert second.returncode == watchdog.EXIT_LOST
    assert "process 0 was lost" in line
    assert "same command" in line
    first.communicate()


def test_processes_that_are_started_again_one_by_one_meet_again() -> None:
    port = free_port()
    first, second = (launch(UP, by_hand(process, port)) for process in (0, 1))
    for process in (first, second):
        assert process.stdout.readline() == "up\n"
    second.kill()
    second.communicate()
    second = launch(UP, by_hand(1, port))  # before the first has noticed anything
    line = one_line(first.communicate(timeout=HEARTBEAT_S + 30)[1])
    assert first.returncode == watchdog.EXIT_LOST
    assert "process 1 was lost" in line
    first = launch(UP, by_hand(0, port))
    for process in (first, second):
        assert process.stdout.readline() == "up\n"
        process.kill()
        process.communicate()


def test_an_error_of_one_process_ends_all_of_them() -> None:
    source = f"""
processes.start("on", heartbeat={HEARTBEAT_S}, timeout=60)
if processes.index() == 1:
    print("a progress bar", end="\\r", file=sys.stderr)
    [][0]
processes.exchange("waits for process 1, which never comes")
"""
    first, second = launch_two(source)
    err = second.communicate(timeout=60)[1]
    assert second.returncode == 1
    assert err.startswith("a progress bar")
    assert err.endswith("IndexError: list index out of range\n")
    line = one_line(first.communicate(timeout=HEARTBEAT_S + 30)[1])
    assert first.returncode == watchdog.EXIT_LOST
    assert f"process 1 was lost (no heartbeat for {HEARTBEAT_S} s)" in line


def test_a_coordinator_that_is_not_there_is_one_line() -> None:
    source = "sys.exit(cli.guarded(lambda argv: processes.start('on', timeout=1), sys.argv))"
    process = launch(source, by_hand(1, free_port()))
    line = one_line(process.communicate(timeout=60)[1])
    assert process.returncode == watchdog.EXIT_LOST
    assert "did not meet at localhost:" in line
    assert "process 1 of 2" in line


UNUSABLE = [
    ("onn", {}, ["--distributed", "'onn'", "auto, on, off"]),
    ("on", {}, ["no cluster detected", "JAX_COORDINATOR_ADDRESS", "--distributed=off"]),
    ("on", {"JAX_NUM_PROCESSES": "two"}, ["JAX_NUM_PROCESSES", "'two'"]),
    ("auto", {"JAX_COORDINATOR_ADDRESS": "localhost:1"}, ["JAX_NUM_PROCESSES"]),
    ("auto", {**by_hand(0, 1), "JAX_COORDINATOR_ADDRESS": "here"}, ["'here'", "HOST:PORT"]),
    ("on", by_hand(2, 1), ["JAX_PROCESS_ID: 2", "0 to 1"]),
    ("on", {**by_hand(0, 1), "JAX_LOCAL_DEVICE_IDS": "gpu0"}, ["JAX_LOCAL_DEVICE_IDS", "'gpu0'"]),
    ("auto", {**by_slurm(0, 1), "SLURM_NTASKS": "many"}, ["detected", "many", "=off"]),
]


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nothing is to be detected, on whatever these tests run."""
    for name in os.environ:
        if name.startswith(("JAX_", "SLURM_", "OMPI_", "KUBERNETES_", "JOB_COMPLETION")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(("mode", "variables", "parts"), UNUSABLE)
def test_what_cannot_be_joined_is_refused(
    mode: str, variables: dict[str, str], parts: Sequence[str], no_cluster: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        no_cluster.setenv(name, value)
    with pytest.raises(InputError) as caught:
        processes.start(mode)
    for part in parts:
        assert part in str(caught.value)


def test_a_coordinator_port_that_is_taken_is_refused(no_cluster: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as server:
        for name, value in by_hand(0, server.getsockname()[1]).items():
            no_cluster.setenv(name, value)
        with pytest.raises(InputError, match="cannot listen there"):
            processes.start("on")


ALONE = {
    "no cluster": {},
    "one task of SLURM": {**by_slurm(0, 1), "SLURM_NTASKS": "1"},
    "a shell in a SLURM allocation": {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4"},
    "a notebook's pod": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
}


@pytest.mark.parametrize("variables", ALONE.values(), ids=ALONE.keys())
def test_auto_stays_alone(variables: dict[str, str], no_cluster: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        no_cluster.setenv(name, value)
    processes.start("auto")
    assert processes.count() == 1
    assert processes.is_writer()
    assert processes.exchange("value") == ["value"]
    processes.agree({"data": "anything"})
    with pytest.raises(KeyError), processes.error_barrier():
        raise KeyError("as without it")


def test_only_what_may_come_of_a_lost_process_is_held_back() -> None:
    # As seen: the first while a collective runs, the second while it is started.
    closed = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed")
    assert processes.may_be_a_loss(closed)
    assert processes.may_be_a_loss(ValueError("UNKNOWN: Gloo AllGather failed: Read error"))
    wrapped = RuntimeError("the save failed")
    wrapped.__cause__ = jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
    assert processes.may_be_a_loss(wrapped)
    memory = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    assert not processes.may_be_a_loss(memory)
    assert not processes.may_be_a_loss(KeyError("UNKNOWN"))


CONNECTION = watchdog.Connection("host0:1234", process=2, processes=4, heartbeat=60, timeout=300)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("(stopped sending heartbeats):\n1\nThe tasks", "process 1 was lost (no heartbeat"),
        ("(stopped sending heartbeats):\n1\n3\nThe tasks", "process 1, 3 was lost"),
        (
            "ABORTED: 1 unexpectedly tried to connect with a different incarnation",
            "1 was lost, and started",
        ),
        ("Failed to send RPC to coordination service.", "process 0 was lost"),
        ("Shutdown barrier has failed", "another process was lost"),
        ("DEADLINE_EXCEEDED RPC: /RegisterTask", "did not meet at host0:1234 (process 2 of 4)"),
        ("ALREADY_EXISTS RPC: /RegisterTask", "two processes have the number 2"),
    ],
)
def test_each_end_has_its_line(text: str, line: str) -> None:
    before = "I1121 attempt #1 of RegisterTask\n"
    assert line in watchdog.explain(f"{before}F1121 {watchdog.FATAL}: {text}", CONNECTION)


def test_warnings_of_cpp_are_passed_on_whole_and_in_order() -> None:
    source_end, write_end = os.pipe()
    read_end, target_end = os.pipe()
    lines = [
        b"W1121 10:26:30.584175 7327 nccl.cc:1] slow link\n",
        b"W1121 10:26:30.584175 7327 preemption_sync_manager.cc:147] Failed to retrieve\n",
        b"W1121 10:26:31.584175 7327 nccl.cc:1] still slow\n",
    ]
    for line in lines:
        os.write(write_end, line)
    os.close(write_end)
    watchdog.pass_on(source_end, target_end, CONNECTION)
    assert os.read(read_end, 1 << 16) == b"".join(lines)
    for end in (source_end, read_end, target_end):
        os.close(end)


def test_a_process_that_was_not_lost_leaves_stderr_as_it_was() -> None:
    source = """
import os
real = os.fstat(2)
sys.excepthook = sys.__excepthook__
from jaxft.distributed import watchdog
watchdog.watch(watchdog.Connection("host0:1", 0, 2, 60, 300))
os.write(2, b"from C++\\n")
watchdog.unwatch()
assert os.path.samestat(real, os.fstat(2))
os.abort()
"""
    process = launch(source, {})
    assert process.communicate(timeout=60)[1] == "from C++\n"
    assert process.returncode == -signal.SIGABRT
