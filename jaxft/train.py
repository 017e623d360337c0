"""Fine-tunes an encoder: text and a checkpoint in, an honest result and a run directory out.

    python -m jaxft.train --config configs/acl_lora.py [--workdir DIR] [--config.FIELD=VALUE ...]
                          [--dry_run] [--distributed=auto|on|off] [--heartbeat SECONDS]

The same command again continues an interrupted run. With --config.seeds=1,2,3 or
--config.optim.learning_rates=1e-3,3e-4 it is several runs, with both every seed with every rate.
They train together where that costs little more than one (`jaxft.training.trials`); each leaves
a directory as if it had trained alone. --dry_run loads and checks everything, prints
the parameters by partition, compiles one step and stops. Started on several hosts at once, with the
same config, it is one run (`jaxft.distributed.processes`); a host that is lost ends the others
within --heartbeat and half a minute.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxft import cli
from jaxft.config import default_workdir, to_json
from jaxft.data import checks
from jaxft.data.batches import choose_buckets, eval_order, train_order
from jaxft.data.encode import Encoded, encode
from jaxft.data.examples import Dataset
from jaxft.distributed import processes
from jaxft.errors import InputError
from jaxft.io import read_json, replace_text, write_json, write_jsonl
from jaxft.models import backbone as backbones
from jaxft.models import hub
from jaxft.models import trained as trained_files
from jaxft.planning import frozen_gradients, plan_cache
from jaxft.planning.accounting import bytes_by_partition
from jaxft.planning.compiled import (
    ResidentGrowth,
    allocator_peak,
    compiled_bytes,
    flops,
    measured_peak,
)
from jaxft.planning.planner import Job
from jaxft.reporting import hparams, model_card, plots, tables
from jaxft.run import build, workdir
from jaxft.run.results import majority_class, predictions, test_results
from jaxft.training import loop, mesh
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.event_log import RunLog
from jaxft.training.metrics import score
from jaxft.training.optimizer import (
    check_accumulate,
    make_optimizer,
    make_schedule,
    updates_by,
)
from jaxft.training.partition import count, split
from jaxft.training.programs import ByLength, eval_program, train_program
from jaxft.training.sharding import check_tensor
from jaxft.training.state import Model, init_params, init_trained, state_shapes
from jaxft.training.step import Params, State
from jaxft.training.trials import (
    Group,
    Trial,
    are_together,
    dropout_keys,
    fits_mesh,
    label,
    learning_rates,
    rates_differ,
    trials,
)


@dataclass(frozen=True)
class Setup:
    """What all runs of a command share.

    Attributes:
      shapes: of one run's State, with shardings.
      parameters, memory: results.json's, as far as shapes tell.
    """

    config: ConfigDict
    env: dict[str, Any]
    devices: Mesh
    dataset: Dataset
    parts: build.Parts
    data: dict[str, Encoded]
    data_report: dict[str, Any]
    plan: loop.Plan
    optimizer: optax.GradientTransformation
    shapes: State
    parameters: dict[str, int]
    memory: dict[str, Any]


@dataclass(frozen=True)
class Started:
    """A run that has been begun or restored, and its state."""

    member: loop.Member
    state: State


@dataclass(frozen=True)
class Programs:
    """The compiled steps of so many runs.

    Attributes:
      alone: what a step of one of these runs alone needs, results.json's `memory.plan`.
    """

    train: ByLength
    evaluate: ByLength
    alone: dict[str, Any] | None


def run(config: ConfigDict, workdir: Path | None, dry_run: bool, argv: list[str]) -> int:
    """One run, or one of each trial, from the raw files to results.json; returns the exit code."""
    with processes.together():
        workdirs = {trial: directory(config, workdir, trial) for trial in trials(config)}
    setup = set_up(config, argv)
    with processes.together():
        is_together = are_together(config, len(workdirs))
    if dry_run:
        return show_compiled(setup, len(workdirs) if is_together else 1)

    # Finished runs are only shown; the others are this command's until it ends.
    left = [trial for trial, path in workdirs.items() if not is_done(setup, trial, path)]
    if not left:
        return 0
    with ExitStack() as stack:
        for trial in left:
            claim(setup, trial, workdirs[trial], stack)
        # A kill between two runs' ends leaves a number that the mesh may not divide.
        is_together = is_together and fits_mesh(config, len(left))
        groups = [left] if is_together else [[trial] for trial in left]
        # One after the other they share one compilation. It comes before any array is made, and is
        # not counted in what the arrays and the steps take.
        compiled = cache(partial(compile_programs, setup))
        compiled(len(groups[0]))
        growth = ResidentGrowth()
        model, weights = setup.parts.model, setup.parts.weights
        frozen_paths = split(model.shapes, model.labels)[1]
        frozen = init_params(model, weights, left[0].seed, setup.devices, frozen_paths)
        for group in groups:
            train(setup, {trial: workdirs[trial] for trial in group}, frozen, compiled, growth)
    return 0


def set_up(config: ConfigDict, argv: list[str]) -> Setup:
    """Loads and checks everything and prints what there is; makes no array on a device."""
    # Text -> token ids, and what there is to know about them; every process reads the same.
    with processes.together():
        devices = mesh.make_mesh(**config.mesh)
        dataset = build.load_dataset(config)
    splits = build.split_fingerprints(dataset)
    processes.agree({f"data ({name})": digest for name, digest in splits.items()})
    with processes.together():
        parts = build.load_parts(config, dataset.labels)
        check_tensor(parts.model.backbone.heads, config.mesh.tensor)
        data = encode_splits(config, dataset, parts)
        env = build.environment(parts, dataset, argv)
    processes.agree({f"model ({part})": digest for part, digest in env["model_sha256"].items()})
    data_report = report_on(config, dataset, data)
    print(checks.render(data_report))

    # Shapes -> optimizer and what each partition costs.
    plan = make_plan(config, data)
    optimizer = make_adamw(config, plan, data["train"], parts.model)
    shapes, frozen_shapes = state_shapes(parts.model, optimizer, devices)
    parameters = count(parts.model.shapes, parts.model.labels)
    memory = bytes_by_partition(
        parts.model.labels, shapes.trained | frozen_shapes, shapes.opt_state
    )
    print(f"\n{config.model.name}, {config.method.name}{fresh_note(parts.fresh)}")
    print(tables.parameter_table(parameters, memory))
    return Setup(
        config,
        env,
        devices,
        dataset,
        parts,
        data,
        data_report,
        plan,
        optimizer,
        shapes,
        parameters,
        memory,
    )


def trial_config(config: ConfigDict, trial: Trial) -> ConfigDict:
    """The config of one trial's run, as if it had been given alone."""
    own = config.copy_and_resolve_references()
    own.seed, own.seeds = trial.seed, ()
    own.optim.learning_rate, own.optim.learning_rates = trial.learning_rate, ()
    return own


def directory(config: ConfigDict, workdir: Path | None, trial: Trial) -> Path:
    """A trial's run directory: --workdir with its {seed} and {learning_rate}, or one in there.

    Raises:
      InputError: --workdir names one of them, and several runs differ in the other.
    """
    if workdir is None:
        return default_workdir(trial_config(config, trial))
    own = (
        ("{seed}", "seed", trial.seed, config.seeds),
        ("{learning_rate}", "lr", trial.learning_rate, config.optim.learning_rates),
    )
    path = str(workdir)
    if not any(mark in path for mark, *_ in own):
        return workdir / "-".join(f"{name}-{value}" for _, name, value, values in own if values)
    for mark, _, value, values in own:
        if len(values) > 1 and mark not in path:
            raise InputError(
                f"--workdir: {workdir} is the same for {len(values)} runs; expected {mark} in it"
            )
        path = path.replace(mark, str(value))
    return Path(path)


def is_done(setup: Setup, trial: Trial, path: Path) -> bool:
    """Checks a run's directory; if it holds the finished run already, shows its results."""
    own = to_json(trial_config(setup.config, trial))
    with processes.together():
        if processes.is_writer():
            workdir.check(path, own, setup.env)
    done = processes.broadcast((path / "DONE").exists())
    if done:
        print(f"\n{path} is done already; its results:\n")
        print(tables.result_table(read_json(path / "results.json")))
    return done


def claim(setup: Setup, trial: Trial, path: Path, stack: ExitStack) -> None:
    """Makes a run's directory this command's until `stack` is closed."""
    own = to_json(trial_config(setup.config, trial))
    with processes.together():
        if processes.is_writer():
            stack.enter_context(workdir.claimed(path, own, setup.env))
    processes.check_shared(path)


def programs(setup: Setup, runs: int) -> tuple[ByLength, ByLength]:
    """Returns the training and the evaluation step of so many runs; compiles nothing."""
    model, plan = setup.parts.model, setup.plan
    run_train = train_program(
        model,
        setup.optimizer,
        setup.devices,
        plan.batch_size,
        log_norm=setup.config.optim.clip > 0,
        seeds=runs,
        rates_differ=rates_differ(setup.config),
    )
    return run_train, eval_program(model, setup.devices, plan.eval_batch_size, seeds=runs)


def compile_programs(setup: Setup, runs: int) -> Programs:
    """Returns the two programs, compiled for every length that a run meets."""
    run_train, run_eval = programs(setup, runs)
    alone = plan_alone(setup, run_train if runs == 1 else None)
    run_train.compile_all(train_lengths(setup.plan, setup.data["train"], setup.plan.epochs))
    evaluated = (eval_lengths(setup.plan, setup.data[split]) for split in ("dev", "test"))
    run_eval.compile_all(chain.from_iterable(evaluated))
    longest = max(run_train.executables)
    one = programs(setup, 1)[0].shapes(longest)
    frozen_gradients.check(run_train.largest(), setup.parts.model, one, runs)
    return Programs(run_train, run_eval, alone)


def plan_alone(setup: Setup, run_train: ByLength | None) -> dict[str, Any] | None:
    """Returns the planner's row of one run alone, at the length that needs the most memory.

    None for a run of several processes: what one of them has in its cache the others may not.

    Args:
      run_train: the step of one run, if that is what trains here; the planner compiles it then.
    """
    if processes.count() > 1:
        return None
    config, plan = setup.config, setup.plan
    shape = dict(setup.devices.shape)
    alone = {**shape, "seeds": 1, "data": shape["data"] * shape["seeds"]}
    job = Job(
        architecture=backbones.read_config(setup.parts.directory),
        num_labels=len(setup.dataset.labels),
        fresh=tuple(setup.parts.fresh),
        dtype=config.model.dtype,
        remat=config.model.remat,
        method=config.method.name,
        options=build.method_options(config),
        clip=config.optim.clip,
        accumulate=config.optim.accumulate,
        batch_size=plan.batch_size,
        length=max(train_lengths(plan, setup.data["train"], plan.epochs)),
        target=plan_cache.here(setup.devices.size),
        mesh=alone,
    )
    row = plan_cache.planned(job, run_train if alone == shape else None)
    left_out = ("collectives", "measured", "step_s", "compile_s")
    found = plan_cache.row_of(job, row, config.model.name)
    return {name: value for name, value in found.items() if name not in left_out}


def train(
    setup: Setup,
    workdirs: dict[Trial, Path],
    frozen: Params,
    compiled: Callable[[int], Programs],
    growth: ResidentGrowth,
) -> None:
    """Begins or continues the runs of a group of trials and trains them to the end.

    Runs that are at different steps train apart until they meet: the one that is behind trains to
    the step of the next, both go on from there together, and so on.
    """
    with ExitStack() as stack:
        waiting = open_runs(setup, workdirs, stack)
        steps = sorted(waiting)
        running: list[Started] = []
        for step, until in zip(steps, [*steps[1:], None], strict=True):
            running = sorted([*running, *waiting[step]], key=lambda one: one.member.number)
            if until is not None:
                names = ", ".join(str(one.member.workdir) for one in running)
                print(f"{names}: training to step {until}, where the others are")
            parts = [running] if fits_mesh(setup.config, len(running)) else [[r] for r in running]
            running = [
                one
                for part in parts
                for one in train_members(setup, part, frozen, compiled, growth, until)
            ]


def open_runs(
    setup: Setup, workdirs: dict[Trial, Path], stack: ExitStack
) -> dict[int, list[Started]]:
    """Opens the checkpoints and logs of a group's runs and restores them; by step.

    Adds a launch to each; what is opened is closed with `stack`.
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
            make_rates(setup.config, setup.plan, setup.data["train"], trial.learning_rate),
            path,
            record,
            opened[trial],
            stack.enter_context(RunLog(path, resume_step=step)),
        )
        by_step.setdefault(step, []).append(Started(member, state))
    return by_step


def note_launch(setup: Setup, path: Path, step: int) -> None:
    """Adds this start to a run's launches; says where it continues, and with which versions."""
    before = processes.broadcast(workdir.launches(path)[-1:])
    if step:
        print(f"continuing {path} at step {step}")
    changed = workdir.other_versions(before[0], setup.env) if before else ""
    if changed:
        print(f"note: {path} was last trained with other versions: {changed}")
    with processes.together():
        if processes.is_writer():
            workdir.add_launch(path, setup.env, step)


def restored(
    setup: Setup, checkpoints: dict[Trial, Checkpoints], begun: set[Trial]
) -> dict[Trial, tuple[State, dict[str, Any]]]:
    """Returns each trial's `(state, record)`, from its checkpoints or at the beginning.

    A kill may come between two runs' checkpoints. Then those that are ahead by this one save go
    back to where the others are: all go on together, to the bits that they would have come to
    undisturbed. Runs that are further apart stay where they are; `train` lets them meet.

    Args:
      begun: the trials that were started before.
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
    # In one order on all processes: each goes back together.
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
            "others are: all go on together as if undisturbed"
        )
        found[trial] = earlier or begin(trial)
    return found


def one_save_ahead(own: Checkpoints, lowest: int) -> bool:
    """Whether the checkpoint before a run's latest is the one at `lowest`; 0 is the beginning."""
    *earlier, _ = own.steps()
    return max(earlier, default=0) == lowest


def train_members(
    setup: Setup,
    started: list[Started],
    frozen: Params,
    compiled: Callable[[int], Programs],
    growth: ResidentGrowth,
    until: int | None,
) -> list[Started]:
    """Trains runs that are at the same step, up to a step or to the end.

    Returns:
      the runs at that step; none if they have come to their end, and their results are written.
    """
    members = [one.member for one in started]
    programs = compiled(len(members))
    run_train, run_eval = programs.train, programs.evaluate
    group = Group(setup.shapes, len(members))
    evaluate = partial(logits_of, setup, run_eval, frozen, len(members))
    last = loop.fit(
        setup.plan,
        setup.data["train"],
        run_train,
        partial(dev_scores, setup, evaluate),
        group,
        members,
        group.stack([one.state for one in started]),
        frozen,
        own_arguments(setup, [member.trial for member in members]),
        mesh=setup.devices,
        until=until,
        after_steps=growth.note,
    )
    if int(last.step) == until:
        return [Started(member, group.take(last, i)) for i, member in enumerate(members)]
    best = best_state(group, members, last)
    states_of = {"last": last, "best": best}
    tested = {"last": evaluate("test", last.trained)}
    tested["best"] = tested["last"] if best is last else evaluate("test", best.trained)
    used = used_memory(programs, growth, setup.parts.weights)
    for number, member in enumerate(members):
        results = make_results(
            setup, member, {name: x[number] for name, x in tested.items()}, used
        ) | {"timing": timing(setup, len(members), member.record, run_train, run_eval)}
        chosen = group.take(states_of[setup.config.select], number).trained
        finish(setup, member, results, chosen, tested[setup.config.select][number])
    return []


def logits_of(
    setup: Setup, run_eval: ByLength, frozen: Params, runs: int, split: str, trained: Params
) -> np.ndarray:
    """Returns logits_SxNxC of a split, with an axis of runs even for one."""
    data = setup.data[split]
    found = loop.logits_of(setup.plan, data, run_eval, trained, frozen, setup.devices)
    return found.reshape(runs, *found.shape[-2:])


def dev_scores(
    setup: Setup, evaluate: Callable[[str, Params], np.ndarray], trained: Params
) -> list[dict[str, Any]]:
    """Returns the scores of the dev split of each run."""
    labels, names = setup.data["dev"].labels, setup.dataset.labels
    majority = majority_class(setup.dataset)
    return [score(logits, labels, names, majority) for logits in evaluate("dev", trained)]


def own_arguments(setup: Setup, group: list[Trial]) -> tuple[jax.Array, ...]:
    """Returns what a group's steps take behind the batch."""
    keys = dropout_keys(setup.devices, [trial.seed for trial in group])
    if not rates_differ(setup.config):
        return (keys,)
    return keys, learning_rates(setup.devices, [trial.learning_rate for trial in group])


def best_state(group: Group, members: list[loop.Member], last: State) -> State:
    """Returns the state of each member's best epoch; the last one's itself if all are that.

    A run without a finite epoch has no best one, and gives its last state.
    """
    states = [restore_best(member) for member in members]
    if all(state is None for state in states):
        return last
    return group.stack([state or group.take(last, i) for i, state in enumerate(states)])


def restore_best(member: loop.Member) -> State | None:
    """Returns the state of a run's best epoch; None if that is its last, or if it has none.

    A checkpoint that is lost or damaged is given up, in the record as well: the best epoch is then
    the best of those that are left.
    """
    member.checkpoints.wait()
    while True:
        history = member.record["history"]
        best = loop.best_entry(history)
        if best is None or best is history[-1]:
            return None
        try:
            return member.checkpoints.restore(best["step"])[0]
        except InputError as err:
            give_up(member, best, str(err))


def give_up(member: loop.Member, best: dict[str, Any], reason: str) -> None:
    """Gives up an epoch whose checkpoint cannot be read, and those that have none to go back to."""
    if best["step"] in member.checkpoints.steps():
        member.checkpoints.put_aside(best["step"])
    *earlier, _ = member.record["history"]
    saved = set(member.checkpoints.steps())
    for entry in earlier:
        if entry["step"] not in saved:
            entry["lost"] = True
    member.record.setdefault("lost_epochs", []).append(best["epoch"])
    print(
        f"{member.label}{reason}; it was of epoch {best['epoch']}, the best on dev by macro-F1; "
        "the best of the epochs that are still saved is taken"
    )


def make_results(
    setup: Setup, member: loop.Member, test_logits: dict[str, np.ndarray], used: dict[str, Any]
) -> dict[str, Any]:
    """Returns results.json, but for the timing.

    Args:
      test_logits: logits_NxC of the `best` and of the `last` weights.
      used: `used_memory`.
    """
    config, dataset, history = setup.config, setup.dataset, member.record["history"]
    best, last = loop.best_entry(history), history[-1]
    unseen = checks.unseen(dataset)
    scores = {
        name: test_results(logits_NxC, setup.data["test"].labels, dataset, unseen)
        for name, logits_NxC in test_logits.items()
    }
    chosen = best if best and config.select == "best" else last
    return {
        **describe(trial_config(config, member.trial), dataset),
        "diverged": member.record.get("diverged"),
        "best_epoch": best and best["epoch"],
        "lost_epochs": member.record.get("lost_epochs", []),
        "selected_epoch": chosen["epoch"],
        **scores[config.select],
        "dev": chosen["dev"],
        "last": {**scores["last"], "dev": last["dev"], "epoch": last["epoch"]},
        "parameters": setup.parameters,
        "memory": {**setup.memory, **used},
        "data": setup.data_report,
        "history": history,
        "versions": setup.env["versions"],
        "launches": workdir.launches(member.workdir),
    }


def finish(
    setup: Setup,
    member: loop.Member,
    results: dict[str, Any],
    trained: Params,
    test_logits_NxC: np.ndarray,
) -> None:
    """Writes a run's results, its trained leaves and its predictions; DONE comes last."""
    leaves = {path: mesh.fetch(x) for path, x in trained.items()}
    workdir, env = member.workdir, setup.env
    with processes.together():
        if processes.is_writer():
            write_trained(workdir, leaves, setup)
            write_predictions(workdir, test_logits_NxC, setup.dataset)
            write_report(workdir, results, env["command"])
            member.log.write_result(hparams.settings(results), hparams.scores(results))
            replace_text(workdir / "DONE", "")
    print("\n" + tables.result_table(results))
    print(f"\nrun directory: {workdir}")


def encode_splits(config: ConfigDict, dataset: Dataset, parts: build.Parts) -> dict[str, Encoded]:
    """Returns train, dev and test as token ids."""
    splits = {"train": dataset.train, "dev": dataset.dev, "test": dataset.test}
    return {
        name: encode(parts.tokenizer, examples, dataset.labels, config.data.max_length)
        for name, examples in splits.items()
    }


def report_on(config: ConfigDict, dataset: Dataset, data: dict[str, Encoded]) -> dict[str, Any]:
    """Returns the data report, results.json's `data`."""
    lengths = {name: encoded.lengths.tolist() for name, encoded in data.items()}
    return checks.report(dataset, lengths, config.data.max_length)


def make_plan(config: ConfigDict, data: dict[str, Encoded]) -> loop.Plan:
    """Returns what the loop is told; the buckets suit all three splits."""
    lengths = np.concatenate([encoded.lengths for encoded in data.values()])
    return loop.Plan(
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        epochs=config.epochs,
        buckets=choose_buckets(lengths, config.data.max_length),
        patience=config.patience,
        save_every=config.save_every,
        accumulate=config.optim.accumulate,
    )


def make_rates(
    config: ConfigDict, plan: loop.Plan, train: Encoded, learning_rate: float
) -> optax.Schedule:
    """Returns the learning rate by update, with this one at its peak."""
    optim, per_epoch = config.optim, plan.steps_per_epoch(len(train.ids))
    updates = updates_by(plan.epochs * per_epoch, per_epoch, optim.accumulate)
    return make_schedule(optim.schedule, learning_rate, updates, optim.warmup)


def make_adamw(
    config: ConfigDict, plan: loop.Plan, train: Encoded, model: Model
) -> optax.GradientTransformation:
    """Returns the optimizer of the model's labels; one for all the rates, where they differ."""
    peak = 1.0 if rates_differ(config) else trials(config)[0].learning_rate
    per_epoch = plan.steps_per_epoch(len(train.ids))
    check_accumulate(config.optim.accumulate, per_epoch)
    return make_optimizer(
        model.labels,
        make_rates(config, plan, train, peak),
        weight_decay=config.optim.weight_decay,
        clip=config.optim.clip,
        accumulate=config.optim.accumulate,
        per_epoch=per_epoch,
    )


def describe(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns what of results.json was known before training."""
    settings = to_json(config)
    return {
        "task": config.task,
        "model": config.model.name,
        "method": config.method.name,
        "method_options": settings["method"],
        "seed": config.seed,
        "labels": list(dataset.labels),
        "select": config.select,
        "config": settings,
    }


def used_memory(
    programs: Programs, growth: ResidentGrowth, weights: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Returns what the longest step needs by XLA, and what was measured on the device.

    `compiled` and all that is measured are of the runs that trained together, `plan` is of one.

    `measured_growth` is the allocator's peak on an accelerator. On the CPU it is how much the
    process grew from before the state was made until the first epoch's steps were over, and the
    checkpoint's weights, which were read before and are used in place.
    """
    compiled = compiled_bytes(programs.train.largest())
    peak, measured_by = measured_peak()
    used, grown = allocator_peak(), growth.bytes()
    if used is None and grown is not None:
        used = grown + sum(x.nbytes for x in weights.values())
    return {
        "plan": programs.alone,
        "compiled": compiled,
        "measured_peak": peak,
        "measured_by": measured_by,
        "measured_growth": used,
        "measured_growth_percent": used and 100 * (used / compiled["peak"] - 1),
        "device": jax.devices()[0].device_kind,
    }


def fresh_note(fresh: list[str]) -> str:
    """Says which parameters do not come from the checkpoint."""
    modules = sorted({path.rsplit("/", 1)[0] for path in fresh})
    return f" ({', '.join(modules)} newly initialised)" if modules else ""


def show_compiled(setup: Setup, runs: int) -> int:
    """Compiles the longest step of so many runs, prints what it needs; returns the exit code."""
    run_train, length = programs(setup, runs)[0], max(setup.plan.buckets)
    executable = run_train.compile(length)
    sizes = compiled_bytes(executable)
    batch = f"{setup.plan.batch_size} examples x {length} tokens"
    together = f"{runs} runs together, {batch} each" if runs > 1 else batch
    print(f"\none step of {together}, compiled for this device:")
    for name, size in sizes.items():
        print(f"  {name:<12}{tables.human_bytes(size):>12}")
    print(f"  {'FLOPs':<12}{(flops(executable) or 0) / 1e9:>8.1f} G")
    print(f"compiled in {run_train.compile_s:.1f} s; everything checked, nothing written")
    return 0


def train_lengths(plan: loop.Plan, data: Encoded, epochs: int) -> list[int]:
    """The padded lengths of all batches of the first epochs: those of any seed."""
    return [
        slot.length
        for epoch in range(epochs)
        for slot in train_order(data.lengths, plan.buckets, plan.batch_size, 0, epoch)
    ]


def eval_lengths(plan: loop.Plan, data: Encoded) -> list[int]:
    """The padded lengths of a split's evaluation batches."""
    return [slot.length for slot in eval_order(data.lengths, plan.buckets, plan.eval_batch_size)]


def timing(
    setup: Setup, runs: int, record: dict[str, Any], run_train: ByLength, run_eval: ByLength
) -> dict[str, Any]:
    """Returns results.json's `timing`; tokens are real ones, `padding_fraction` the rest.

    `train_s` is the time of all the runs that trained together; the rates are theirs together.
    """
    plan, data = setup.plan, setup.data["train"]
    epochs = len(record["history"])
    padded = plan.batch_size * sum(train_lengths(plan, data, epochs))
    tokens = epochs * sum(map(len, data.ids))
    seconds = record["train_s"]
    return {
        "compile_s": run_train.compile_s + run_eval.compile_s,
        "train_s": seconds,
        "seeds_together": runs,
        "examples_per_s": runs * epochs * len(data.ids) / seconds,
        "tokens_per_s": runs * tokens / seconds,
        "padding_fraction": 1 - tokens / padded,
        "compiled_shapes": len(run_train.executables) + len(run_eval.executables),
    }


def write_trained(workdir: Path, trained: dict[str, np.ndarray], setup: Setup) -> None:
    """Writes the trained parameters, with all that predicting with them takes.

    Full fine-tuning leaves a whole model: nothing of the one that it began with is needed.
    """
    config, env, dataset = to_json(setup.config), setup.env, setup.dataset
    is_pair = any(example.pair is not None for example in dataset.test)
    settings = {
        "task": setup.config.task,
        "labels": dataset.labels,
        "majority": dataset.labels[majority_class(dataset)],
        "pair": is_pair,
        "columns": build.columns_of(setup.config, is_pair),
        "method": config["method"],
        "base_model": {**config["model"], "sha256": env["model_sha256"]},
        "buckets": setup.plan.buckets,
        "max_length": setup.config.data.max_length,
        "eval_batch_size": setup.plan.eval_batch_size,
        "weights_sha256": env["weights_sha256"],
    }
    folder = workdir / build.trained_folder(setup.config.method.name)
    trained_files.save(folder, trained, settings)
    if setup.config.method.name == "full":
        hub.copy_description(setup.parts.directory, folder)


def write_predictions(workdir: Path, logits_NxC: np.ndarray, dataset: Dataset) -> None:
    """Writes predictions_test.jsonl, in the order of the test split."""
    rows = predictions(logits_NxC, dataset.test, dataset.labels)
    seen = [checks.seen_in(dataset, split) for split in ("train", "dev")]
    marked = [
        {**row, "in_train": in_train, "in_dev": in_dev}
        for row, in_train, in_dev in zip(rows, *seen, strict=True)
    ]
    write_jsonl(workdir / "predictions_test.jsonl", marked)


def write_report(workdir: Path, results: dict[str, Any], command: str) -> None:
    """Writes results.json, the plots and the model card."""
    write_json(workdir / "results.json", results)
    folder = workdir / "plots"
    folder.mkdir(exist_ok=True)
    title = f"{results['task']}, {results['model']}, {results['method']}"
    plots.learning_curves(
        results["history"],
        folder / "learning_curves.png",
        title=title,
        selected=results["selected_epoch"],
    )
    plots.confusion_matrix(
        results["test"], results["labels"], folder / "confusion_test.png", title=title
    )
    replace_text(workdir / "README.md", model_card.model_card(results, command=command))


def join_hosts(argv: list[str]) -> list[str]:
    """Starts what --distributed says and returns the other arguments.

    Before the config is read: a host on which that fails tells the others.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("distributed", "auto", "one run of several processes", values)
    flags.DEFINE_integer(
        "heartbeat", processes.HEARTBEAT_S, "seconds to a lost host", flag_values=values
    )
    values.set_gnu_getopt()  # --config FILE comes first, and ends the options otherwise
    try:
        rest = values(argv, known_only=True)
    except flags.Error as err:
        raise InputError(cli.flag_message(err, "")) from err
    processes.start(values.distributed, values.heartbeat)
    return rest


def to_agree(config: ConfigDict, dry_run: bool) -> dict[str, Any]:
    """Returns what the processes of a run must be given alike.

    Where the data lie is each host's own affair; what they are is compared once they are read.
    """
    fields = flatten_dict(to_json(config), sep=".")
    del fields["data.dir"]
    return {"--dry_run": dry_run, **{f"config.{name}": x for name, x in fields.items()}}


def main(argv: list[str]) -> int:
    """Parses the flags and runs; see the module's docstring."""
    rest = join_hosts(argv)
    values = flags.FlagValues()
    flags.DEFINE_string(
        "workdir",
        "",
        "run directory; of several runs where theirs lie, or a name with {seed} or "
        "{learning_rate} in it; default: named by the config",
        values,
    )
    flags.DEFINE_bool("dry_run", False, "check, count and compile, then stop", values)
    with processes.together():
        config = cli.parse_config_command(rest, values)
    processes.agree(to_agree(config, values.dry_run))
    workdir = Path(values.workdir) if values.workdir else None
    try:
        return run(config, workdir, values.dry_run, argv)
    except loop.InterruptedRunError as stop:
        if processes.is_writer():
            print(f"\n{stop}; the same command continues it", file=sys.stderr)
        return stop.exit_code


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
