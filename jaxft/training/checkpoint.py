"""Orbax checkpoints of what training changes: the trained leaves, the optimizer's state, a record.

    with Checkpoints(workdir / "checkpoints", state_shapes) as checkpoints:
        found = checkpoints.restore_latest()          # (state, record), or None at the first start
        checkpoints.save(state, record, best_step=120)

The latest two and the best are kept. Orbax restores a flipped bit without complaint, so the record
holds a sha256 of every leaf and of itself; a checkpoint that fails the check is put aside and the
one before it is used.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from filelock import FileLock, Timeout
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo

from jaxft.errors import InputError
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
    """The checkpoints of one run. Leaving the `with` waits for the last asynchronous save."""

    def __init__(self, directory: Path, shapes: State) -> None:
        """Opens or creates `directory`.

        Args:
          shapes: the State as ShapeDtypeStructs with shardings, so that a checkpoint restores onto
            any mesh.

        Raises:
          InputError: another process writes into this run.
        """
        self._shapes = shapes
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory.resolve()  # orbax wants an absolute path
        self._lock = FileLock(directory.parent / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as err:
            raise InputError(f"{directory.parent}: another process is writing this run") from err
        self._policy = LatestAndBest()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                cleanup_tmp_directories=True,
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
        self._manager.close()
        self._lock.release()

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

    def wait(self) -> None:
        """Waits until everything saved is on disk, so that it can be restored."""
        self._manager.wait_until_finished()

    def restore_latest(self) -> tuple[State, dict[str, Any]] | None:
        """Returns the last sound checkpoint's `(state, record)`, or None if there is none."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self.restore(step)
            except InputError as err:
                print(f"{err}; taking the checkpoint before it")
                self._put_aside(step)
        return None

    def restore(self, step: int) -> tuple[State, dict[str, Any]]:
        """Returns the `(state, record)` of one step.

        Raises:
          InputError: it is not readable, or a leaf is not what was saved.
        """
        where = self._directory / str(step)
        wanted = {
            "trained": by_number(self._shapes.trained),
            "opt_state": by_number(self._shapes.opt_state),
        }
        try:
            restored = self._manager.restore(
                step,
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
        leaves = {name: restored[name] for name in wanted}
        record = dict(restored["record"])
        saved = record.pop("sha256", None)
        if digests(leaves, record) != saved:
            raise InputError(f"checkpoint {where} does not hold what was saved (sha256 differs)")
        state = State(
            step=jax.device_put(np.int32(step), self._shapes.step.sharding),
            trained=from_numbers(self._shapes.trained, leaves["trained"]),
            opt_state=from_numbers(self._shapes.opt_state, leaves["opt_state"]),
        )
        return state, record

    def _put_aside(self, step: int) -> None:
        """Renames a bad checkpoint, so that its step can be written again and it can be studied."""
        bad = self._directory.parent / "bad_checkpoints"
        bad.mkdir(exist_ok=True)
        shutil.rmtree(bad / str(step), ignore_errors=True)
        (self._directory / str(step)).rename(bad / str(step))
        self._manager.reload()


def by_number(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their number: parameter paths hold slashes, which name files."""
    return {f"{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def from_numbers(like: Any, leaves: dict[str, Any]) -> Any:
    """The inverse of `by_number`, in the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in sorted(leaves)])


def digests(leaves: dict[str, dict[str, Any]], record: dict[str, Any]) -> dict[str, str]:
    """Returns the sha256 of every leaf's bytes and of the record's JSON."""
    parts = {
        f"{item}/{name}": np.asarray(leaf).tobytes()
        for item, tree in leaves.items()
        for name, leaf in tree.items()
    }
    parts["record"] = json.dumps(record, sort_keys=True).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
