"""Orbax checkpoints of what training changes: trained parameters, optimizer state, a record.

    with Checkpoints(workdir / "checkpoints", state_shapes) as checkpoints:
        found = checkpoints.restore_latest()          # (state, record), or None at the first start
        checkpoints.save(state, record, best_step=120)

The latest two and the best are kept. Orbax restores a flipped bit without complaint, so the record
holds a sha256 of every leaf and of itself. A checkpoint that fails the check is put aside and the
one before it is used.

A leaf is saved under its path, `classifier.kernel`. Older versions of jaxft saved it under its
number in the tree, `0007`; such checkpoints are restored too.

In a run of several processes each writes and reads its part of the leaves. All of them must call
each method, and they agree on which checkpoint is sound. The caller ensures that there is only one
writer at a time (`jaxft.run.workdir`).
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo

from jaxft.distributed import processes
from jaxft.errors import InputError, OutputError, one_line
from jaxft.io import unwritable
from jaxft.training.mesh import fetch
from jaxft.training.private_orbax import avoid_leaks, say_damage_once
from jaxft.training.step import State

Leaves = dict[str, dict[str, Any]]  # item -> name -> array or its shape


@dataclass
class LatestAndBest(policies.PreservationPolicy):
    """Keeps the two latest steps, to resume from, and the best one according to the loop.

    Orbax can rank checkpoints by metrics itself, but a NaN makes it drop the true best, and it
    cannot open a directory in which one metrics file is cut short.
    """

    best_step: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: Any
    ) -> Sequence[bool]:
        """Returns for each checkpoint, oldest first, whether to keep it."""
        del context
        latest = len(checkpoints) - 2
        return [i >= latest or info.step == self.best_step for i, info in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one run. Leaving the `with` waits for the last asynchronous save.

    In a multi-process run, leaving on an error does not wait for pending saves: the error may
    affect only this process.
    """

    def __init__(self, directory: Path, shapes: State) -> None:
        """Opens or creates `directory`.

        Args:
          shapes: the State as ShapeDtypeStructs with shardings, so that a checkpoint restores onto
            any mesh.
        """
        say_damage_once()
        avoid_leaks()
        self._shapes = shapes
        self._directory = directory.resolve()  # orbax wants an absolute path
        self._damaged = False
        # A run that was killed after going back may have left some.
        self._replaced_at = processes.broadcast(newest_in(self._superseded))
        with processes.error_barrier():
            if processes.is_writer():
                directory.mkdir(parents=True, exist_ok=True)
        self._policy = LatestAndBest()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                cleanup_tmp_directories=True,
                # All processes see the steps that the first one sees; NFS may show them late.
                single_host_load_and_broadcast=processes.count() > 1,
            ),
        )
        # The manager's reader synchronises all processes and would hang if one of them failed to
        # read its part, so each process reads independently.
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=processes.index(), active_processes={processes.index()}
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or processes.count() == 1:
            with saving(self._directory):
                self._manager.close()

    @property
    def damaged(self) -> bool:
        """Whether a checkpoint was put aside."""
        return self._damaged

    def steps(self) -> list[int]:
        """The steps that are saved, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: State, record: dict[str, Any], best_step: int | None = None) -> None:
        """Saves a state and its record (JSON) under the state's step.

        Args:
          best_step: the best step so far, this one or an earlier one; None if there is none yet.
        """
        self._policy.best_step = best_step
        leaves = named_leaves(state, by_path)
        # A copy: orbax writes in the background, while the loop appends to its record.
        record = copy.deepcopy(record)
        record["sha256"] = digests(leaves, record)
        with saving(self._directory):
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    trained=ocp.args.StandardSave(leaves["trained"]),
                    opt_state=ocp.args.StandardSave(leaves["opt_state"]),
                    record=ocp.args.JsonSave(record),
                ),
            )
        self._drop_superseded(int(state.step))

    def wait(self) -> None:
        """Waits until all saves are on disk and can be restored."""
        with saving(self._directory):
            self._manager.wait_until_finished()

    def restore_latest(self) -> tuple[State, dict[str, Any]] | None:
        """Returns the last sound checkpoint's `(state, record)`, or None if there is none."""
        for step in reversed(self.steps()):
            try:
                return self.restore(step)
            except InputError as err:
                print(f"{err}; taking the checkpoint before it")
                self.put_aside(step)
        return None

    def go_back(self, step: int) -> tuple[State, dict[str, Any]] | None:
        """Returns the `(state, record)` of a step, from which the run continues.

        Later checkpoints are moved aside, and removed once the run has saved those steps again.

        Args:
          step: of a checkpoint; or 0, the beginning, for which None is returned.

        Raises:
          InputError: the checkpoint is not readable; nothing has been changed.
        """
        found = self.restore(step) if step else None
        for later in [saved for saved in self.steps() if saved > step]:
            self._move(later, self._superseded)
            self._replaced_at = later
        return found

    def restore(self, step: int) -> tuple[State, dict[str, Any]]:
        """Returns the `(state, record)` of one step.

        Raises:
          InputError: it is not readable, or a leaf is not what was saved.
        """
        where = self._directory / str(step)
        with processes.error_barrier():
            leaves, record = self._read(where)
        saved = record.pop("sha256")
        with processes.error_barrier():
            if digests(leaves, record) != saved:
                raise InputError(
                    f"checkpoint {where} does not hold what was saved (sha256 differs)"
                )
        state = State(
            step=jax.device_put(np.int32(step), self._shapes.step.sharding),
            trained=like(self._shapes.trained, leaves["trained"]),
            opt_state=like(self._shapes.opt_state, leaves["opt_state"]),
        )
        return state, record

    def _read(self, where: Path) -> tuple[Leaves, dict[str, Any]]:
        """Returns a checkpoint's leaves by item and name, in the order of the tree; its record."""
        try:
            record = self._restore_items(where, record=ocp.args.JsonRestore())["record"]
            wanted = self._saved_names(where, record)
            self._check_shapes(where, wanted)
            items = {item: ocp.args.StandardRestore(leaves) for item, leaves in wanted.items()}
            restored = self._restore_items(where, **items)
        except (ValueError, KeyError, OSError, json.JSONDecodeError) as err:
            # The errors of TensorStore, orbax and json for files that are cut short, lost or
            # garbled.
            raise InputError(f"checkpoint {where} cannot be read ({one_line(err)})") from err
        leaves = {
            item: {name: restored[item][name] for name in names} for item, names in wanted.items()
        }
        return leaves, dict(record)

    def _restore_items(self, where: Path, **items: Any) -> Any:
        """Returns items of a checkpoint, as orbax reads them."""
        try:
            return self._reader.restore(where, args=ocp.args.Composite(**items))
        except Exception as err:
            if type(err) is not Exception:
                raise
            # Orbax raises a bare one if the chunk of an array is cut short.
            raise ValueError(str(err)) from err

    def _saved_names(self, where: Path, record: Any) -> Leaves:
        """Returns the shapes of the run's leaves under the names that the checkpoint has for them.

        Raises:
          InputError: the checkpoint has other leaves than the run.
        """
        listed = record.get("sha256") if isinstance(record, dict) else None
        if not isinstance(listed, dict):
            raise InputError(f"checkpoint {where} cannot be read (its record lists no sha256)")
        saved = set(listed) - {"record"}
        for naming in (by_path, by_number):
            leaves = named_leaves(self._shapes, naming)
            if names_of(leaves) == saved:
                return leaves
        wanted = names_of(named_leaves(self._shapes, by_path))
        lacks, has = sorted(wanted - saved), sorted(saved - wanted)
        reason = f"lacks {lacks[0]}" if lacks else f"has {has[0]}, unlike the run"
        raise InputError(f"checkpoint {where} is of another model or optimizer: it {reason}")

    def _check_shapes(self, where: Path, wanted: Leaves) -> None:
        """Raises InputError unless the leaves were saved with the run's shapes and types.

        This detects an old checkpoint of a run with `optim.accumulate` above 1, whose optimizer was
        another one with the same number of leaves. Orbax would convert integers to floats.
        """
        paths = named_leaves(self._shapes, by_path)
        for item, leaves in wanted.items():
            found = ocp.StandardCheckpointHandler().metadata(where / item).tree
            for path, (name, leaf) in zip(paths[item], leaves.items(), strict=True):
                saved = found[name]
                if (saved.shape, saved.dtype) != (leaf.shape, leaf.dtype):
                    raise InputError(
                        f"checkpoint {where} is of another model or optimizer: {item}/{path} is "
                        f"{saved.dtype} {saved.shape} in it, {leaf.dtype} {leaf.shape} in the run"
                    )

    def put_aside(self, step: int) -> None:
        """Moves a bad checkpoint away, so that its step can be written again."""
        self._damaged = True
        self._move(step, self._directory.parent / "bad_checkpoints")

    @property
    def _superseded(self) -> Path:
        """The folder of checkpoints that the run has gone back from."""
        return self._directory.parent / "superseded_checkpoints"

    def _move(self, step: int, folder: Path) -> None:
        """Moves a checkpoint into another folder, replacing one of the same step."""
        with processes.error_barrier():
            if processes.is_writer():
                folder.mkdir(exist_ok=True)
                shutil.rmtree(folder / str(step), ignore_errors=True)
                (self._directory / str(step)).rename(folder / str(step))
        self._manager.reload()

    def _drop_superseded(self, step: int) -> None:
        """Removes the checkpoints that the run went back from, once this step replaces them all."""
        if self._replaced_at is None or step < self._replaced_at:
            return
        self.wait()
        if processes.is_writer():
            shutil.rmtree(self._superseded, ignore_errors=True)
        self._replaced_at = None


@contextmanager
def saving(directory: Path) -> Iterator[None]:
    """Turns the errors of a disk that is full into an OutputError; they may come with a later save.

    An unfinished checkpoint has another name, and the next start removes it.
    """
    try:
        yield
    except (OSError, ValueError) as err:
        reason = unwritable(err)
        if reason is None:
            raise
        raise OutputError(f"{directory}: a checkpoint cannot be written: {reason}") from err


def newest_in(folder: Path) -> int | None:
    """The highest step of the checkpoints in a folder; None without any."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=None)


def named_leaves(state: State, naming: Callable[[Any], dict[str, Any]]) -> Leaves:
    """The leaves of a state that are saved, by item and name."""
    return {"trained": naming(state.trained), "opt_state": naming(state.opt_state)}


def names_of(leaves: Leaves) -> set[str]:
    """`item/name` of each leaf, as the record lists their sha256."""
    return {f"{item}/{name}" for item, found in leaves.items() for name in found}


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, in the order of the tree.

    by_path({"classifier/kernel": x})    # {"classifier.kernel": x}

    Dots separate the parts, because orbax may take slashes for folders.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {
        jax.tree_util.keystr(path, simple=True, separator=".").replace("/", "."): leaf
        for path, leaf in leaves
    }
    assert len(named) == len(leaves), "two leaves have one name"
    return named


def by_number(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their number in it, the names of an older jaxft (up to 5a4a636)."""
    return {f"{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def like(tree: Any, leaves: dict[str, Any]) -> Any:
    """The tree that has these named leaves, which are in its order."""
    return jax.tree.unflatten(jax.tree.structure(tree), list(leaves.values()))


def digests(leaves: Leaves, record: dict[str, Any]) -> dict[str, str]:
    """Returns the sha256 of every leaf's bytes and of the record's JSON."""
    # One leaf at a time: a process that holds a part of each must fetch the whole leaf.
    of_leaves = {
        f"{item}/{name}": hashlib.sha256(fetch(leaf).tobytes()).hexdigest()
        for item, tree in leaves.items()
        for name, leaf in tree.items()
    }
    content = json.dumps(record, sort_keys=True).encode()
    return {**of_leaves, "record": hashlib.sha256(content).hexdigest()}
