"""Where a run continues: its latest checkpoint or the beginning; and its best epoch at the end.

    with ExitStack() as stack:
        waiting = open_runs(setup, workdirs, stack)     # step -> runs that are at this step

A checkpoint is removed only after its replacement has been saved.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.distributed import processes
from jaxft.errors import InputError
from jaxft.run import workdir
from jaxft.run.setup import Setup, make_rates
from jaxft.training import loop
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.event_log import RunLog
from jaxft.training.selection import best_entry
from jaxft.training.state import init_trained
from jaxft.training.step import State
from jaxft.training.trials import Group, Trial, label


@dataclass(frozen=True)
class Started:
    """A new or restored run, and its state."""

    member: loop.Member
    state: State


def open_runs(
    setup: Setup, workdirs: dict[Trial, Path], stack: ExitStack
) -> dict[int, list[Started]]:
    """Opens the checkpoints and logs of a group's runs, restores them and returns them by step.

    Adds a launch to each run. `stack` closes what is opened here.
    """
    begun = {
        trial
        for trial, path in workdirs.items()
        if processes.broadcast(bool(workdir.launches(path)))
    }
    opened = {
        trial: stack.enter_context(Checkpoints(path / "checkpoints", setup.shapes))
        for trial, path in workdirs.items()
    }
    by_step: dict[int, list[Started]] = {}
    for number, (trial, (state, record)) in enumerate(restored(setup, opened, begun).items()):
        step, path = int(state.step), workdirs[trial]
        processes.agree({"the step to start at": step})
        note_launch(setup, path, step)
        member = loop.Member(
            trial,
            number,
            label(trial, list(workdirs)),
            make_rates(setup.config, setup.loop_config, setup.data["train"], trial.learning_rate),
            path,
            record,
            opened[trial],
            stack.enter_context(RunLog(path, step, record.get("log_sha256"))),
        )
        by_step.setdefault(step, []).append(Started(member, state))
    return by_step


def note_launch(setup: Setup, path: Path, step: int) -> None:
    """Adds this start to a run's launches; prints where it continues, and changed versions."""
    before = processes.broadcast(workdir.launches(path)[-1:])
    if step:
        print(f"continuing {path} at step {step}")
    changed = workdir.other_versions(before[0], setup.env) if before else ""
    if changed:
        print(f"note: {path} was last trained with other versions: {changed}")
    with processes.error_barrier():
        if processes.is_writer():
            workdir.add_launch(path, setup.env, step)


def restored(
    setup: Setup, checkpoints: dict[Trial, Checkpoints], begun: set[Trial]
) -> dict[Trial, tuple[State, dict[str, Any]]]:
    """Returns each trial's `(state, record)`, from its checkpoints or at the beginning.

    A kill may come between the checkpoints of two runs. Runs that are one save ahead then go back
    to the step of the others, so that all continue together and end with the same bits as without
    the kill. Runs that are further apart keep their steps; `train` brings them together.

    Args:
      begun: the trials that had started before.
    """
    model, weights = setup.parts.model, setup.parts.weights

    def begin(trial: Trial) -> tuple[State, dict[str, Any]]:
        state = init_trained(model, setup.optimizer, weights, trial.seed, setup.devices)
        return state, loop.new_record()

    found = {trial: own.restore_latest() or begin(trial) for trial, own in checkpoints.items()}
    steps = {trial: int(state.step) for trial, (state, _) in found.items()}
    lowest = min(steps.values())
    behind = {trial for trial, step in steps.items() if step == lowest}
    is_disturbed = any(own.damaged for own in checkpoints.values()) or not behind <= begun
    # In the same order on all processes, which go back together.
    ahead = [trial for trial in steps if trial not in behind]
    if is_disturbed or not all(one_save_ahead(checkpoints[trial], lowest) for trial in ahead):
        return found
    for trial in ahead:
        try:
            earlier = checkpoints[trial].go_back(lowest)
        except InputError as err:
            print(f"{err}; this run stays at step {steps[trial]}")
            continue
        print(
            f"{label(trial, list(steps))}back from step {steps[trial]} to {lowest}, where the "
            "others are; all continue together as if uninterrupted"
        )
        found[trial] = earlier or begin(trial)
    return found


def one_save_ahead(own: Checkpoints, lowest: int) -> bool:
    """Whether the checkpoint before a run's latest is the one at `lowest`; 0 is the beginning."""
    *earlier, _ = own.steps()
    return max(earlier, default=0) == lowest


def best_state(group: Group, members: list[loop.Member], last: State, metric: str) -> State:
    """Returns the state of each member's best epoch; `last` itself if that is everyone's.

    A run without a finite epoch has no best epoch and gives its last state.
    """
    states = [restore_best(member, metric) for member in members]
    if all(state is None for state in states):
        return last
    return group.stack([state or group.take(last, i) for i, state in enumerate(states)])


def restore_best(member: loop.Member, metric: str) -> State | None:
    """Returns the state of a run's best epoch by a dev score.

    None if that is its last epoch, or if it has none.

    A lost or damaged checkpoint is also marked in the record; the best epoch is then the best of
    those whose checkpoints are left.
    """
    member.checkpoints.wait()
    while True:
        history = member.record["history"]
        best = best_entry(history, metric)
        if best is None or best is history[-1]:
            return None
        try:
            return member.checkpoints.restore(best["step"])[0]
        except InputError as err:
            give_up(member, best, str(err))


def give_up(member: loop.Member, best: dict[str, Any], reason: str) -> None:
    """Marks an epoch whose checkpoint cannot be read as lost, and those without a checkpoint."""
    if best["step"] in member.checkpoints.steps():
        member.checkpoints.put_aside(best["step"])
    *earlier, _ = member.record["history"]
    saved = set(member.checkpoints.steps())
    for entry in earlier:
        if entry["step"] not in saved:
            entry["lost"] = True
    member.record.setdefault("lost_epochs", []).append(best["epoch"])
    print(
        f"{member.label}{reason}; it was of epoch {best['epoch']}, the best on dev; "
        "the best of the epochs that are still saved is taken"
    )
