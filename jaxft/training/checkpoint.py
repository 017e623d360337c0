"""Orbax checkpoints of what training changes: the trained leaves, the optimizer's state, a record.

    with Checkpoints(workdir / "checkpoints", state_shapes) as checkpoints:
        found = checkpoints.restore_latest()          # (state, record), or None at the first start
        checkpoints.save(state, record, best_step=120)

The latest two and the best are kept. Orbax restores a flipped bit without complaint, so the record
holds a sha256 of every leaf and of itself; a checkpoint that fails the check is put aside and the
one before it is used. Of several processes each writes and reads its part of the leaves, and all
call each method; which checkpoint is sound they find together. One writer at a time is the
caller's to ensure (`jaxft.run.workdir`).
"""

import copy
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo

from jaxft.distributed import processes
from jaxft.errors import InputError
from jaxft.training.mesh import fetch
from jaxft.training.step import State


@dataclass
class LatestAndBest(policies.PreservationPolicy):
    """Keeps two steps to resume from, and the one that the loop calls the best.

    Orbax can rank by metrics itself, but it drops the true best for a NaN, and cannot open a
    directory in which one metrics file is cut short.
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

    If several processes leave it by an error, they do not wait: it may be one's alone.
    """

    def __init__(self, directory: Path, shapes: State) -> None:
        """Opens or creates `directory`.

        Args:
          shapes: the State as ShapeDtypeStructs with shardings, so that a checkpoint restores onto
            any mesh.
        """
        say_damage_once()
        self._shapes = shapes
        self._directory = directory.resolve()  # orbax wants an absolute path
        self._damaged = False
        # A run that was killed after it had gone back may have left some.
        self._replaced_at = processes.broadcast(newest_in(self._superseded))
        with processes.together():
            if processes.is_writer():
                directory.mkdir(parents=True, exist_ok=True)
        self._policy = LatestAndBest()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                cleanup_tmp_directories=True,
                # All processes shall see the same steps, however late NFS shows them.
                single_host_load_and_broadcast=processes.count() > 1,
            ),
        )
        # The manager's own reader waits for all processes on the devices, in vain if one of them
        # cannot read its part; this one reads alone.
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
            self._manager.close()

    @property
    def damaged(self) -> bool:
        """Whether a checkpoint had to be put aside."""
        return self._damaged

    def steps(self) -> list[int]:
        """The steps that are saved, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: State, record: dict[str, Any], best_step: int | None = None) -> None:
        """Saves a state and its record (JSON) under the state's step.

        Args:
          best_step: the best step so far, this one or one saved before; None if there is none yet.
        """
        self._policy.best_step = best_step
        leaves = {
            "trained": by_number(state.trained),
            "opt_state": by_number(state.opt_state),
        }
        # A copy: orbax writes in the background, while the loop appends to its record.
        record = copy.deepcopy(record)
        record["sha256"] = digests(leaves, record)
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
        """Waits until everything saved is on disk, so that it can be restored."""
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
        """Returns what was saved at this step, and trains on from there; None is the beginning.

        Later checkpoints are kept beside the others until one has been saved in their place.

        Args:
          step: of a checkpoint; or 0, the beginning, of which there is none.

        Raises:
          InputError: it is not readable; nothing has changed then.
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
        with processes.together():
            leaves, record = self._read(where)
        saved = record.pop("sha256", None)
        with processes.together():
            if digests(leaves, record) != saved:
                raise InputError(
                    f"checkpoint {where} does not hold what was saved (sha256 differs)"
                )
        state = State(
            step=jax.device_put(np.int32(step), self._shapes.step.sharding),
            trained=from_numbers(self._shapes.trained, leaves["trained"]),
            opt_state=from_numbers(self._shapes.opt_state, leaves["opt_state"]),
        )
        return state, record

    def _read(self, where: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Returns a checkpoint's leaves by item and number, and its record."""
        wanted = {
            "trained": by_number(self._shapes.trained),
            "opt_state": by_number(self._shapes.opt_state),
        }
        try:
            restored = self._reader.restore(
                where,
                args=ocp.args.Composite(
                    trained=ocp.args.StandardRestore(wanted["trained"]),
                    opt_state=ocp.args.StandardRestore(wanted["opt_state"]),
                    record=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, OSError, json.JSONDecodeError) as err:
            # What TensorStore, orbax and json raise for files that are cut short, lost or garbled.
            reason = str(err).strip().splitlines()[0][:120]
            raise InputError(f"checkpoint {where} cannot be read ({reason})") from err
        return {name: restored[name] for name in wanted}, dict(restored["record"])

    def put_aside(self, step: int) -> None:
        """Renames a bad checkpoint, so that its step can be written again and it can be studied."""
        self._damaged = True
        self._move(step, self._directory.parent / "bad_checkpoints")

    @property
    def _superseded(self) -> Path:
        """Holds checkpoints that the run has gone back from."""
        return self._directory.parent / "superseded_checkpoints"

    def _move(self, step: int, folder: Path) -> None:
        """Renames a checkpoint into another folder, replacing one of its name."""
        with processes.together():
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


@cache
def say_damage_once() -> None:
    """Drops what libraries print about a damaged checkpoint, hundreds of lines around our one.

    Orbax logs each metadata file that is no JSON. When one array cannot be read it also closes its
    event loop while other reads are under way: each of those fails when it wants to report, and
    asyncio logs the error of each that had failed already, as nobody asks for it any more.
    """
    noise = (
        ("absl", "Failed to json parse Metadata file"),
        ("asyncio", "Future exception was never retrieved"),
        ("asyncio", "Task exception was never retrieved"),
    )
    for name, start in noise:
        logging.getLogger(name).addFilter(partial(is_other, start))
    before = sys.unraisablehook

    def hook(args: Any) -> None:
        if not (type(args.exc_value) is RuntimeError and "Event loop is closed" in str(args[1])):
            before(args)

    sys.unraisablehook = hook


def is_other(start: str, record: logging.LogRecord) -> bool:
    """Whether a log record does not start like this."""
    return not str(record.msg).startswith(start)


def newest_in(folder: Path) -> int | None:
    """The highest step of the checkpoints in a folder; None without any."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=None)


def by_number(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their number: parameter paths hold slashes, which name files."""
    return {f"{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def from_numbers(like: Any, leaves: dict[str, Any]) -> Any:
    """The inverse of `by_number`, in the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in sorted(leaves)])


def digests(leaves: dict[str, dict[str, Any]], record: dict[str, Any]) -> dict[str, str]:
    """Returns the sha256 of every leaf's bytes and of the record's JSON."""
    # One leaf after the other: a process that holds a part of each has the whole of one at a time.
    of_leaves = {
        f"{item}/{name}": hashlib.sha256(fetch(leaf).tobytes()).hexdigest()
        for item, tree in leaves.items()
        for name, leaf in tree.items()
    }
    content = json.dumps(record, sort_keys=True).encode()
    return {**of_leaves, "record": hashlib.sha256(content).hexdigest()}
