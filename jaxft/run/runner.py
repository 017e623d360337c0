"""A run from the raw files to results.json, top to bottom.

    run(config, Path("runs/acl"), dry_run=False, argv=sys.argv)

Load and check (`setup`), compile (`compiled`), restore (`resume`), train epoch by epoch
(`jaxft.training.loop`), evaluate, write (`results`, `write`). Several runs that train together take
the same path, with an axis of runs in front of everything that is trained.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxft.config import to_json
from jaxft.distributed import processes
from jaxft.errors import InputError, check_choice
from jaxft.io import read_json
from jaxft.models import backbone as backbones
from jaxft.models import quantised
from jaxft.peft.methods import find
from jaxft.planning.compiled import ResidentGrowth, compiled_bytes
from jaxft.reporting import sealed, tables
from jaxft.run import build
from jaxft.run import workdir as rundir
from jaxft.run.compiled import Programs, compile_programs, show_compiled
from jaxft.run.keep import keep, keep_program
from jaxft.run.phases import Phases
from jaxft.run.process import collected_often, in_one_place
from jaxft.run.results import make_results, timing, used_memory
from jaxft.run.resume import Started, best_state, open_runs
from jaxft.run.setup import Setup, set_up
from jaxft.run.trials import are_together, directory, fits_mesh, rates_differ, trial_config, trials
from jaxft.run.write import finish
from jaxft.training import loop
from jaxft.training.objectives import OBJECTIVES
from jaxft.training.partition import split
from jaxft.training.programs import CompiledByLength
from jaxft.training.state import Model, init_params
from jaxft.training.step import Params
from jaxft.training.trials import Group, Trial, dropout_keys, learning_rates


def run(config: ConfigDict, workdir: Path | None, dry_run: bool, argv: list[str]) -> int:
    """One run, or one of each trial, from the raw files to results.json; returns the exit code."""
    with processes.error_barrier():
        find(config.method.name)  # check names before any data is downloaded
        check_objective(config)
        workdirs = {trial: directory(config, workdir, trial) for trial in trials(config)}
        if processes.is_writer() and not dry_run:
            for path in workdirs.values():
                rundir.check_free(path)
    setup = set_up(config, argv)
    with processes.error_barrier():
        is_together = are_together(config, len(workdirs))
    if dry_run:
        return show_compiled(setup, len(workdirs) if is_together else 1)

    # Finished runs are only shown; this command holds the locks of the others until it ends.
    left = [trial for trial, path in workdirs.items() if not is_done(setup, trial, path)]
    if not left:
        return 0
    with ExitStack() as stack:
        for trial in left:
            claim(setup, trial, workdirs[trial], stack)
        # If the previous launch was killed, the number of unfinished runs may not be divisible by
        # mesh.seeds.
        is_together = is_together and fits_mesh(config, len(left))
        groups = [left] if is_together else [[trial] for trial in left]
        # Sequential runs share one compilation. It comes before any array is made, so that it is
        # not counted in the memory of the arrays and the steps.
        keeps = keep_program(setup)
        compiled = cache(partial(compile_programs, setup, keeps))
        compiled(len(groups[0]))
        phases = Phases(ResidentGrowth())
        model, weights = setup.parts.model, setup.parts.weights
        frozen_paths = split(model.shapes, model.labels)[1]
        frozen = init_params(model, weights, left[0].seed, setup.devices, frozen_paths)
        setup, frozen = keep(setup, frozen, keeps)
        with collected_often():
            for group in groups:
                train(setup, {trial: workdirs[trial] for trial in group}, frozen, compiled, phases)
    return 0


def check_objective(config: ConfigDict) -> None:
    """Raises InputError unless the config names an objective and one of its scores.

    Where the data decide on the objective, its scores are checked once they are read.
    """
    objective = build.named_objective(config)
    if objective:
        objective.check_metric(config.metric)
    else:
        known = [name for one in OBJECTIVES.values() for name in one.all_metrics()]
        check_choice(config.metric, ["auto", *dict.fromkeys([*known, "loss"])], "metric")


def is_done(setup: Setup, trial: Trial, path: Path) -> bool:
    """Checks a run's directory; shows the results if the run is finished."""
    own = to_json(trial_config(setup.config, trial))
    with processes.error_barrier():
        if processes.is_writer():
            rundir.check(path, own, setup.env)
    done = processes.broadcast((path / "DONE").exists())
    if done:
        show_done(path)
    return done


def show_done(path: Path) -> None:
    """Prints the results of a finished run, and which of its files have changed since.

    Raises:
      InputError: results.json is not as the run wrote it.
    """
    changed = sealed.changed(path)
    again = f"remove {path / sealed.DONE} and give the command again to write its files anew"
    if "results.json" in changed:
        raise InputError(f"{path / 'results.json'} is not as the run wrote it; {again}")
    print(f"\n{path} is done already; its results:\n")
    print(tables.result_table(read_json(path / "results.json")))
    if changed:
        # The log cannot be had again: it is of training, which is over.
        can = any(name != "metrics.jsonl" and not name.startswith("tb/") for name in changed)
        way = f"; {again}" if can else ""
        print(f"note: not as the run wrote them: {', '.join(changed)}{way}")


def claim(setup: Setup, trial: Trial, path: Path, stack: ExitStack) -> None:
    """Holds the lock of a run's directory until `stack` is closed."""
    own = to_json(trial_config(setup.config, trial))
    with processes.error_barrier():
        if processes.is_writer():
            stack.enter_context(rundir.claimed(path, own, setup.env))
    processes.check_shared(path)


def train(
    setup: Setup,
    workdirs: dict[Trial, Path],
    frozen: Params,
    compiled: Callable[[int], Programs],
    phases: Phases,
) -> None:
    """Starts or continues the runs of a group of trials and trains them to the end.

    Runs at different steps train separately until they meet: the last one trains to the step of the
      next, from there both continue together, and so on.
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
                for one in train_members(setup, part, frozen, compiled, phases, until)
            ]


def train_members(
    setup: Setup,
    started: list[Started],
    frozen: Params,
    compiled: Callable[[int], Programs],
    phases: Phases,
    until: int | None,
) -> list[Started]:
    """Trains runs that are at the same step, up to a step or to the end.

    Returns:
      the runs at that step; none if they are finished and their results have been written.
    """
    members = [one.member for one in started]
    programs = compiled(len(members))
    run_train, run_eval = programs.train, programs.evaluate
    group = Group(setup.shapes, len(members))
    evaluate = partial(logits_of, setup, run_eval, frozen, len(members))
    state = group.stack([one.state for one in started])
    phases.load(setup.parts.model.labels, state, frozen)
    last = loop.fit(
        setup.loop_config,
        setup.data["train"],
        in_one_place(phases.around(run_train), compiled_bytes(run_train.largest())["temporaries"]),
        partial(dev_scores, setup, evaluate, phases),
        group,
        members,
        state,
        frozen,
        own_arguments(setup, [member.trial for member in members]),
        mesh=setup.devices,
        until=until,
        note=phases.note,
    )
    if int(last.step) == until:
        return [Started(member, group.take(last, i)) for i, member in enumerate(members)]
    best = best_state(group, members, last, setup.loop_config.metric)
    states_of = {"last": last, "best": best}
    tested = {"last": evaluate("test", last.trained)}
    tested["best"] = tested["last"] if best is last else evaluate("test", best.trained)
    phases.note("end")
    used = used_memory(setup, programs, phases)
    added = added_frozen(setup.parts.model, frozen)
    for number, member in enumerate(members):
        results = make_results(
            setup, member, {name: x[number] for name, x in tested.items()}, used
        ) | {"timing": timing(setup, len(members), member.record, programs)}
        chosen = group.take(states_of[setup.config.select], number).trained
        leaves = added | chosen
        finish(setup, member, results, leaves, tested[setup.config.select][number])
    return []


def added_frozen(model: Model, frozen: Params) -> Params:
    """Returns the frozen parameters that are the method's, not the backbone's.

    They are saved with the trained ones: VeRA's matrices, the adapters that a fusion is made of.
    The codes of a quantised kernel are not: they follow from the checkpoint. Nor does it matter
    where the parameters came from: `init_from` gives the method's as well.
    """
    own = backbones.parameter_shapes(model.backbone)
    return {p: x for p, x in frozen.items() if p not in own and not quantised.is_part(p)}


def logits_of(
    setup: Setup, run_eval: CompiledByLength, frozen: Params, runs: int, split: str, trained: Params
) -> np.ndarray:
    """Returns logits_SxNxC of a split, with an axis of runs even for one."""
    data = setup.data[split]
    found = loop.logits_of(setup.loop_config, data, run_eval, trained, frozen, setup.devices)
    return found.reshape(runs, *found.shape[-2:])


def dev_scores(
    setup: Setup, evaluate: Callable[[str, Params], np.ndarray], phases: Phases, trained: Params
) -> list[dict[str, Any]]:
    """Returns the scores of the dev split of each run."""
    targets, names = setup.data["dev"].labels, setup.dataset.labels
    baseline = setup.objective.baseline(setup.data["train"].labels, names)
    found = evaluate("dev", trained)
    phases.note("evaluation")
    return [setup.objective.scores(logits, targets, names, baseline) for logits in found]


def own_arguments(setup: Setup, group: list[Trial]) -> tuple[jax.Array, ...]:
    """Returns the arguments of a group's steps that follow the batch."""
    keys = dropout_keys(setup.devices, [trial.seed for trial in group])
    if not rates_differ(setup.config):
        return (keys,)
    return keys, learning_rates(setup.devices, [trial.learning_rate for trial in group])
