"""One run on several processes: as one process would, and together whatever happens to one.

Two processes on this machine, with one or two devices each; they talk over gloo.
"""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import ROOT, environment, read, rows_of
from jax.sharding import SingleDeviceSharding
from processes import wait_until

from jaxft.distributed import watchdog
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.step import State

# Of several processes only the first writes to the cache of compiled programs.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_compilations")]

HEARTBEAT_S = 10


launched: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Ends what a test that failed has left."""
    yield
    while launched:
        process = launched.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def command(checkpoint: Path, workdir: Path, *overrides: str) -> list[str]:
    """The command of a small run: 120 examples, 2 epochs of 7 steps.

    18 examples are padded to 20 rows for four devices, and so are the 12 of an epoch's last batch;
    the 60 test examples are four batches of 14, in 16 rows, and one of 4.
    """
    return [
        *(sys.executable, "-m", "jaxft.train", "--config", "configs/acl_lora.py"),
        *("--config.data.source=sample", f"--config.model.name={checkpoint}"),
        *("--config.batch_size=18", "--config.eval_batch_size=14", "--config.epochs=2"),
        *("--config.data.max_length=16", f"--heartbeat={HEARTBEAT_S}"),
        *(f"--workdir={workdir}", *overrides),
    ]


def launch(arguments: list[str], devices: int, **variables: str) -> subprocess.Popen:
    """Starts a process that sees so many devices."""
    here = {name: value for name, value in environment().items() if "proxy" not in name.lower()}
    xla = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**here, "JAX_PLATFORMS": "cpu", **xla, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    launched.append(process)
    return process


def launch_two(commands: Iterable[list[str]], devices: int = 2) -> list[subprocess.Popen]:
    """Starts the two processes of a run, with so many devices each."""
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [
        launch(arguments, devices, **variables, JAX_PROCESS_ID=str(i))
        for i, arguments in enumerate(commands)
    ]


# gloo says on stdout who is connected: in pieces, from several threads, whose lines mix.
GLOO = re.compile(
    r"(\[Gloo\] Rank | is connected to | peer ranks\. "
    r"|Expected number of connected peer ranks is : |\d+|\n)*"
)


def ended(*processes: subprocess.Popen) -> list[tuple[int, str, str]]:
    """Waits for processes and returns of each the exit code, stdout and stderr."""
    results = []
    for process in processes:
        out, err = process.communicate(timeout=600)
        out = "".join(line for line in out.splitlines(True) if not GLOO.fullmatch(line))
        results.append((process.returncode, out, err))
    return results


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Waits until a run has written something."""
    wait_until(path.exists, process, limit_s=300)
    assert path.exists(), process.communicate()


def same_results(a: Path, b: Path) -> None:
    """Asserts that two runs learned and predict the same, but for the order of sums."""
    first, second = read(a / "results.json"), read(b / "results.json")
    for one, other in zip(first["history"], second["history"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["dev"]["loss"] == pytest.approx(other["dev"]["loss"], rel=1e-5)
    assert first["test"]["loss"] == pytest.approx(second["test"]["loss"], rel=1e-5)
    assert first["test"]["confusion"] == second["test"]["confusion"]
    mine, theirs = (rows_of(run / "predictions_test.jsonl") for run in (a, b))
    for row, other in zip(mine, theirs, strict=True):
        assert (row["text"], row["prediction"]) == (other["text"], other["prediction"])
        assert row["probabilities"] == pytest.approx(other["probabilities"], rel=1e-5)


def test_two_processes_survive_one_and_end_as_one_process_does(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    # Begun by two processes with a device each, until one of them is killed.
    workdir, alone = tmp_path / "two", tmp_path / "one"
    begin = command(tiny_checkpoint, workdir, "--config.save_every=5")
    first, second = launch_two([begin, begin], devices=1)
    wait_for(workdir / "checkpoints" / "5", first)
    second.kill()
    killed = time.monotonic()
    ((code, _, err),) = ended(first)
    assert time.monotonic() - killed < HEARTBEAT_S + 30
    assert code == watchdog.EXIT_LOST, err
    assert re.fullmatch(r"train: process 1 was lost [^\n]*The same command [^\n]*\n", err)
    assert not (workdir / "DONE").exists()
    second.communicate()
    shutil.copytree(workdir, alone)

    # Continued on four devices, by two processes that hold half of every matrix each, and by one.
    fsdp = [*begin, "--config.mesh.fsdp=4"]
    (code_0, out, err_0), (code_1, *said) = ended(*launch_two([fsdp, fsdp]))
    assert (code_0, code_1) == (0, 0), (err_0, said)
    assert f"continuing {workdir} at step" in out
    assert "macro-F1" in out
    assert said == ["", ""]
    ((code, out, err),) = ended(launch([*begin, f"--workdir={alone}"], devices=4))
    assert code == 0, err
    assert f"continuing {alone} at step" in out
    same_results(workdir, alone)

    # Process 1 has left nothing behind, and no example was counted twice or not at all.
    assert {path.name for path in workdir.iterdir()} == {path.name for path in alone.iterdir()}
    results = read(workdir / "results.json")
    assert sum(map(sum, results["test"]["confusion"])) == results["data"]["test"] == 60
    assert sum(map(sum, results["dev"]["confusion"])) == results["data"]["dev"]
    assert len(rows_of(workdir / "predictions_test.jsonl")) == 60
    steps = [row["step"] for row in rows_of(workdir / "metrics.jsonl") if "train" in row]
    assert steps == sorted(set(steps))


LOOP = """
import signal, sys, time
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jaxft.data.encode import Encoded
from jaxft.distributed import processes
from jaxft.training import loop, mesh
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.event_log import RunLog
from jaxft.training.step import State
from jaxft.training.trials import Group, Trial

processes.start("on", heartbeat=60, timeout=60)
workdir, devices = Path(sys.argv[1]), mesh.make_mesh()
ids = [np.array([i]) for i in range(400)]
data = Encoded(ids, ids, np.zeros(400, np.int32), np.ones(400, np.int32), 0)
plan = loop.LoopConfig(batch_size=4, eval_batch_size=4, epochs=1, buckets=(8,), save_every=10)
zero = mesh.put(np.int32(0), mesh.replicated(devices))
state = State(zero, {"w": zero.astype(np.float32)}, {"steps": zero})

@jax.jit
def counting_step(state, frozen, batch, key):
    w = state.trained["w"] + batch["weights"].sum()
    return State(state.step + 1, {"w": w}, {"steps": state.step + 1}), {"loss": w}

def run_train(*args):
    time.sleep(0.05)
    return counting_step(*args)

def train(folder, until):
    with Checkpoints(workdir / folder, state) as saved, RunLog(workdir, 0) as log:
        own = Trial(0, 1e-3), 0, "", lambda step: 0.0
        member = loop.Member(*own, workdir, loop.new_record(), saved, log)
        loop.fit(
            plan, data, run_train, None, Group(state, 1), [member], state, {}, (jax.random.key(0),),
            mesh=devices, until=until,
        )

try:
    for until in map(int, sys.argv[2:]):  # runs before the last one
        train("before", until)
        time.sleep(3)
    train("checkpoints", None)
except loop.InterruptedRunError as stop:
    print(stop, file=sys.__stdout__)
    sys.exit(stop.exit_code)
"""


def test_sigterm_to_one_process_stops_both_at_the_same_step(tmp_path: Path) -> None:
    first, second = launch_two([sys.executable, "-c", LOOP, str(tmp_path)] for _ in (0, 1))
    wait_for(tmp_path / "checkpoints" / "10", first)
    second.send_signal(signal.SIGTERM)
    (code_0, out_0, err_0), (code_1, out_1, err_1) = ended(first, second)
    assert (code_0, code_1) == (143, 143), err_0 + err_1
    stopped = int(re.fullmatch(r"stopped by SIGTERM at step (\d+)\n", out_0)[1])
    assert out_1 == out_0
    assert 10 <= stopped < 100
    one_device = SingleDeviceSharding(jax.devices()[0])
    step, w = (
        jax.ShapeDtypeStruct((), dtype, sharding=one_device) for dtype in (np.int32, np.float32)
    )
    with Checkpoints(tmp_path / "checkpoints", State(step, {"w": w}, {"steps": step})) as saved:
        state, record = saved.restore_latest()
    assert int(state.step) == stopped
    assert float(state.trained["w"]) == 4 * stopped == record["losses"][-1]


def test_sigterm_between_two_runs_stops_before_the_second(tmp_path: Path) -> None:
    script = [sys.executable, "-c", LOOP, str(tmp_path), "50"]
    first, second = launch_two([script, script])
    wait_for(tmp_path / "before" / "50", first)
    time.sleep(1)  # the run has ended, the next one has not begun
    second.send_signal(signal.SIGTERM)
    for code, out, err in ended(first, second):
        assert code == 143, err
        assert out == "stopped by SIGTERM at step 0\n"
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_a_host_with_other_data_is_told_on_both(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jaxft" / "data" / "samples" / "acl", tmp_path / "here" / "acl")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    altered = tmp_path / "there" / "acl" / "dev.jsonl"
    altered.write_text(altered.read_text().replace("the", "teh", 1))
    here, there = (
        command(
            *(tiny_checkpoint, tmp_path / "run", "--config.data.source=local"),
            f"--config.data.dir={tmp_path / place}",
        )
        for place in ("here", "there")
    )
    results = ended(*launch_two([here, there]))
    for code, out, err in results:
        assert code == 2, err
        assert re.fullmatch(
            r"train: data \(dev\) differs: \S+ on process 1, [^\n]*same config and data\n", err
        )
        assert out == ""
    assert not (tmp_path / "run").exists()


def test_a_mesh_that_does_not_match_the_devices_is_told_on_both(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    three = command(tiny_checkpoint, tmp_path / "run", "--config.mesh.data=3")
    results = ended(*launch_two([three, three]))
    for code, _, err in results:
        assert code == 2, err
        assert re.fullmatch(r"train: mesh: data 3 [^\n]*there are 4;[^\n]*\n", err)
    assert not (tmp_path / "run").exists()
