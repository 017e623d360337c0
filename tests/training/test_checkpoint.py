"""Checkpoints: what is saved comes back bit for bit, or the one before it does."""

import asyncio
import gc
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh

from jaxft.errors import InputError
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.loop import best_step
from jaxft.training.mesh import make_mesh, replicated
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.step import State

# Where one array cannot be read, orbax leaves the reads of the others unfinished.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = Path(__file__).parents[2]
LABELS = {"classifier/kernel": "head", "layer/0/lora/a": "adapter"}


def make_state(step: int, mesh: Mesh, width: int = 4) -> State:
    """A state of two leaves and their moments; every step's is another."""
    trained = {path: jnp.zeros((3, width)) for path in LABELS}
    schedule = make_schedule("constant", 0.1, total_steps=10, warmup=0.0)
    tx = make_optimizer(LABELS, schedule, weight_decay=0.1, clip=1.0, accumulate=2)
    rng = np.random.default_rng(step)
    tree = jax.tree.map(
        lambda x: rng.normal(7, 3, x.shape).astype(x.dtype), (trained, tx.init(trained))
    )
    return jax.device_put(State(np.int32(step), *tree), replicated(mesh))


def make_record(step: int) -> dict[str, Any]:
    return {"history": [{"epoch": step, "dev": {"macro_f1": 0.1 * step}}], "losses": [1.5, step]}


def shapes_of(state: State) -> State:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def equal_bits(a: State, b: State) -> bool:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs
    )


@pytest.fixture(scope="module")
def states() -> Callable[[int], State]:
    return cache(lambda step: make_state(step, make_mesh(1)))


@pytest.fixture(scope="module", autouse=True)
def _leave_no_reads_behind() -> Iterator[None]:
    """Collects them here, where their warning is expected, and not during another module."""
    yield
    gc.collect()


@pytest.fixture
def opened(tmp_path: Path, states) -> Callable[[], Checkpoints]:
    """Opens the checkpoints of one run, again and again."""
    return lambda: Checkpoints(tmp_path / "run" / "checkpoints", shapes_of(states(1)))


# ---------------------------------------------------------------- saving and restoring


def test_state_and_record_come_back_bit_for_bit(opened, states) -> None:
    with opened() as checkpoints:
        assert checkpoints.restore_latest() is None
        checkpoints.save(states(1), make_record(1), best_step=1)
        checkpoints.save(states(2), make_record(2))
    with opened() as checkpoints:
        state, record = checkpoints.restore_latest()
        assert equal_bits(state, states(2))
        assert record == make_record(2)
        state, record = checkpoints.restore(1)
        assert equal_bits(state, states(1))
        assert record == make_record(1)
        assert state.step.sharding == states(1).step.sharding


def test_a_leaf_is_saved_under_its_path(opened, states, tmp_path: Path) -> None:
    with opened() as checkpoints:
        checkpoints.save(states(1), make_record(1))
    record = json.loads(
        (tmp_path / "run" / "checkpoints" / "1" / "record" / "metadata").read_text()
    )
    names = set(record["sha256"])
    assert {"record", "trained/classifier.kernel", "trained/layer.0.lora.a"} < names
    moments = "opt_state/inner.1.inner_states.adapter.inner_state.0"
    assert {f"{moments}.mu.layer.0.lora.a", f"{moments}.count"} < names
    assert len(names) == 1 + len(jax.tree.leaves((states(1).trained, states(1).opt_state)))


def test_a_checkpoint_of_another_model_is_refused_by_the_name_that_differs(
    opened, states, tmp_path: Path
) -> None:
    with opened() as checkpoints:
        checkpoints.save(states(1), make_record(1))
    shapes = shapes_of(states(1))
    path = "layer/0/lora/a"
    renamed = {path.replace("0", "1"): shapes.trained[path]}
    other = {**shapes.trained, **renamed}
    for trained, reason in (
        (other, "lacks trained/layer.1.lora.a"),
        ({"classifier/kernel": shapes.trained[path]}, f"has trained/{path.replace('/', '.')}"),
    ):
        with (
            Checkpoints(
                tmp_path / "run" / "checkpoints", shapes._replace(trained=trained)
            ) as checkpoints,
            pytest.raises(InputError, match=f"of another model or optimizer: it {reason}"),
        ):
            checkpoints.restore(1)


def test_nan_and_infinite_leaves_come_back_too(opened, states) -> None:
    odd = jax.tree.map(lambda x: x.at[..., 0].set(jnp.nan) if x.ndim == 2 else x, states(1))
    with opened() as checkpoints:
        checkpoints.save(odd, make_record(1))
    with opened() as checkpoints:
        assert equal_bits(checkpoints.restore_latest()[0], odd)


def test_what_changes_after_a_save_is_not_saved(
    opened, states, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save goes on in the background while the loop adds to its record."""
    write = ocp.JsonCheckpointHandler._save_fn

    async def write_late(*args: Any) -> None:
        await asyncio.sleep(0.2)
        await write(*args)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", write_late)
    with opened() as checkpoints:
        record = make_record(1)
        checkpoints.save(states(1), record, best_step=1)
        record["losses"] += [9.0]
        record["history"].append("later")
        checkpoints.wait()
        assert checkpoints.restore(1)[1] == make_record(1)


def test_a_state_given_away_after_a_save_is_saved_as_it_was(opened, states) -> None:
    """The training step is compiled to overwrite the state that it is given."""
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    for step in (1, 2, 3):
        with opened() as checkpoints:
            mine = jax.tree.map(lambda x: x + 0, states(step))
            checkpoints.save(mine, make_record(step))
            jax.block_until_ready(overwrite(mine))
            checkpoints.wait()
            assert equal_bits(checkpoints.restore(step)[0], states(step))


def test_leaving_waits_for_the_save(tmp_path: Path) -> None:
    state = make_state(1, make_mesh(1), width=300_000)
    for step in (1, 2):
        with Checkpoints(tmp_path / "run" / "checkpoints", shapes_of(state)) as checkpoints:
            checkpoints.save(state._replace(step=jnp.int32(step)), make_record(step))
        assert (tmp_path / "run" / "checkpoints" / str(step) / "record").is_dir()
    with Checkpoints(tmp_path / "run" / "checkpoints", shapes_of(state)) as checkpoints:
        found, record = checkpoints.restore_latest()
    assert int(found.step) == 2
    assert record == make_record(2)
    assert equal_bits(found._replace(step=state.step), state)


def test_an_error_inside_still_waits_for_the_save(opened, states) -> None:
    def fail() -> None:
        with opened() as checkpoints:
            checkpoints.save(states(1), make_record(1))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    with opened() as checkpoints:
        assert equal_bits(checkpoints.restore_latest()[0], states(1))


# ---------------------------------------------------------------- going back


def test_what_a_run_goes_back_from_is_kept_until_it_is_saved_anew(
    opened, states, tmp_path: Path
) -> None:
    aside = tmp_path / "run" / "superseded_checkpoints"
    with opened() as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(states(step), make_record(step), best_step=1)
    with opened() as checkpoints:
        state, record = checkpoints.go_back(2)
        assert equal_bits(state, states(2))
        assert record == make_record(2)
        assert checkpoints.steps() == [1, 2]
        assert (aside / "3").is_dir()
    # A kill may come here; the run goes on from step 2 then, and step 3 is still there.
    with opened() as checkpoints:
        assert equal_bits(checkpoints.restore_latest()[0], states(2))
        assert (aside / "3").is_dir()
        checkpoints.save(states(3), make_record(3), best_step=1)
        assert not aside.exists()
        assert (tmp_path / "run" / "checkpoints" / "3" / "record").is_dir()
        assert checkpoints.steps() == [1, 2, 3]


def test_a_run_that_cannot_go_back_stays_where_it_is(opened, states, tmp_path: Path) -> None:
    with opened() as checkpoints:
        for step in (1, 2):
            checkpoints.save(states(step), make_record(step))
    for file in (tmp_path / "run" / "checkpoints" / "1").rglob("*"):
        if file.is_file():
            truncate(file)
    with opened() as checkpoints:
        with pytest.raises(InputError, match="checkpoint"):
            checkpoints.go_back(1)
        assert checkpoints.steps() == [1, 2]
        assert equal_bits(checkpoints.restore_latest()[0], states(2))


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    "scores",
    [
        (0.9, 0.2, 0.3, 0.4),
        (0.2, 0.9, math.nan, 0.4, math.nan),
        (0.5, 0.5, 0.1, 0.2, 0.3),
        (0.7, None, 0.1, None, None),
        (math.nan, math.nan, math.nan),
        (math.nan, 0.0, math.nan, math.inf),
        (-math.inf, 0.1, 0.0, 0.0),
    ],
)
def test_the_latest_two_and_the_best_are_kept(
    scores: tuple[float | None, ...], opened, states, tmp_path: Path
) -> None:
    with opened() as checkpoints:
        history: list[dict[str, Any]] = []
        for step, score in enumerate(scores, 1):
            if score is not None:
                dev = {"macro_f1": score}
                history.append({"epoch": step, "step": step, "train_loss": 1.0, "dev": dev})
            checkpoints.save(states(step), make_record(step), best_step(history))
    wanted = {len(scores) - 1, len(scores), best_step(history)} - {None}
    folders = (tmp_path / "run" / "checkpoints").iterdir()
    assert {int(folder.name) for folder in folders} == wanted


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, states) -> Path:
    """A run with the checkpoints 1 and 2."""
    run = tmp_path_factory.mktemp("sound") / "run"
    with Checkpoints(run / "checkpoints", shapes_of(states(1))) as checkpoints:
        checkpoints.save(states(1), make_record(1), best_step=1)
        checkpoints.save(states(2), make_record(2), best_step=2)
    return run


def files_of_newest(run: Path) -> list[Path]:
    newest = run / "checkpoints" / "2"
    return sorted(path.relative_to(run) for path in newest.rglob("*") if path.is_file())


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flip": flip,
    "truncate": truncate,
    "delete": Path.unlink,
}


def outcome(run: Path, states: Callable[[int], State]) -> str:
    """What a run makes of its checkpoints: "kept", "fell back", or what went wrong."""
    with Checkpoints(run / "checkpoints", shapes_of(states(1))) as checkpoints:
        found = checkpoints.restore_latest()
        if found is None:
            return "lost the sound checkpoint too"
        state, record = found
        step = int(state.step)
        if not equal_bits(state, states(step)) or record != make_record(step):
            return f"restored something else as step {step}: {record}"
        if step == 2:
            checkpoints.save(states(3), make_record(3), best_step=3)
            checkpoints.wait()
            return "kept" if equal_bits(checkpoints.restore(3)[0], states(3)) else "cannot go on"
        if (run / "checkpoints" / "2").exists():
            return "left the bad checkpoint in place"
        # What was put aside can be written again.
        checkpoints.save(states(2), make_record(2), best_step=2)
        checkpoints.wait()
        again, _ = checkpoints.restore_latest()
        return "fell back" if equal_bits(again, states(2)) else "saved something else"


def damaged(sound: Path, run: Path, file: Path, damage: Callable[[Path], None]) -> Path:
    shutil.copytree(sound, run)
    damage(run / file)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_in_any_file_is_harmless_or_the_checkpoint_before_is_taken(
    kind: str, sound: Path, states, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for number, file in enumerate(files_of_newest(sound)):
        run = damaged(sound, tmp_path / str(number), file, DAMAGES[kind])
        capsys.readouterr()
        try:
            found[str(file)] = outcome(run, states)
        except Exception as err:  # all files are tried, then all that went wrong is shown
            found[str(file)] = f"raised {type(err).__name__}: {str(err)[:200]}"
        if found[str(file)] == "fell back":
            assert "taking the checkpoint before it" in capsys.readouterr().out
            assert (run / "bad_checkpoints" / "2").is_dir()
    wrong = {file: what for file, what in found.items() if what not in ("kept", "fell back")}
    assert wrong == {}


def test_a_flip_anywhere_in_the_arrays_is_noticed(sound: Path, states, tmp_path: Path) -> None:
    data = [file for file in files_of_newest(sound) if "d" in file.parts]
    assert data
    for number, (file, place) in enumerate((f, p) for f in data for p in (0.2, 0.8)):
        run = damaged(sound, tmp_path / str(number), file, lambda path, p=place: flip(path, p))
        assert outcome(run, states) in ("kept", "fell back")


@pytest.mark.parametrize("kind", ["flip", "truncate", "delete"])
def test_damage_to_every_array_file_at_once_is_noticed(
    kind: str, sound: Path, states, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "run")
    for file in files_of_newest(sound):
        if "d" in file.parts:
            DAMAGES[kind](tmp_path / "run" / file)
    assert outcome(tmp_path / "run", states) == "fell back"


def test_a_changed_figure_in_the_record_is_noticed(sound: Path, states, tmp_path: Path) -> None:
    """One flipped bit makes 0.2 of 0.3 in a file that is still JSON."""
    shutil.copytree(sound, tmp_path / "run")
    record = tmp_path / "run" / "checkpoints" / "2" / "record" / "metadata"
    content = json.loads(record.read_text())
    content["history"][0]["dev"]["macro_f1"] = 0.3
    record.write_text(json.dumps(content))
    assert outcome(tmp_path / "run", states) == "fell back"


def test_with_no_sound_checkpoint_a_run_starts_anew(
    sound: Path, states, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sound, tmp_path / "run")
    for step in ("1", "2"):
        truncate(tmp_path / "run" / "checkpoints" / step / "record" / "metadata")
    with Checkpoints(tmp_path / "run" / "checkpoints", shapes_of(states(1))) as checkpoints:
        assert checkpoints.restore_latest() is None
        assert capsys.readouterr().out.count("taking the checkpoint before it") == 2
        checkpoints.save(states(1), make_record(1), best_step=1)
        checkpoints.wait()
        assert equal_bits(checkpoints.restore(1)[0], states(1))


# ---------------------------------------------------------------- other meshes

RESTORE_ON_8 = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/training")
import jax, numpy as np
from test_checkpoint import equal_bits, make_state, shapes_of
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.mesh import make_mesh

state = make_state(2, make_mesh(8))
with Checkpoints(Path(sys.argv[1]) / "checkpoints", shapes_of(state)) as checkpoints:
    found, _ = checkpoints.restore_latest()
assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(found))
assert equal_bits(found, state)
print("equal")
"""


def test_one_devices_checkpoint_restores_onto_eight(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "run")
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", RESTORE_ON_8, str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "equal"
