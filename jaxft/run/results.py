"""results.json of a run: scores, parameters, memory, timing, data.

results = make_results(setup, member, test_logits, used)
"""

from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxft.config import to_json
from jaxft.data import checks
from jaxft.data.examples import Dataset
from jaxft.planning.compiled import (
    allocator_peak,
    compiled_bytes,
    measured_peak,
)
from jaxft.run import workdir
from jaxft.run.compiled import Programs, train_lengths
from jaxft.run.phases import Phases
from jaxft.run.scores import test_results
from jaxft.run.setup import Setup
from jaxft.run.trials import trial_config
from jaxft.training import loop
from jaxft.training.objectives import Objective
from jaxft.training.programs import width
from jaxft.training.selection import best_entry


def make_results(
    setup: Setup, member: loop.Member, test_logits: dict[str, np.ndarray], used: dict[str, Any]
) -> dict[str, Any]:
    """Returns results.json without the timing.

    Args:
      test_logits: logits_NxC of the `best` and of the `last` weights.
      used: `used_memory`.
    """
    config, dataset, history = setup.config, setup.dataset, member.record["history"]
    best, last = best_entry(history, setup.loop_config.metric), history[-1]
    unseen, objective = checks.unseen(dataset), setup.objective
    baseline = objective.baseline(setup.data["train"].labels, dataset.labels)
    scores = {
        name: test_results(
            logits_NxC, setup.data["test"].labels, dataset, unseen, objective, baseline
        )
        for name, logits_NxC in test_logits.items()
    }
    chosen = best if best and config.select == "best" else last
    return {
        **describe(trial_config(config, member.trial), dataset, setup.loop_config),
        **objective_facts(objective, dataset, baseline),
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


def objective_facts(
    objective: Objective, dataset: Dataset, baseline: list[float]
) -> dict[str, Any]:
    """Returns the objective's name, and whatever a report needs to know of its scores.

    So that a report can show the scores of an objective that is not registered where it is made.
    """
    return {
        "objective": objective.name,
        "description": objective.description,
        "metrics": {name: asdict(metric) for name, metric in objective.all_metrics().items()},
        "shown": list(objective.shown),
        "baseline": objective.baseline_name(baseline, dataset.labels),
        "plot": objective.plot,
        "loss_name": objective.loss_name,
        "limit": objective.limit,
    }


def describe(config: ConfigDict, dataset: Dataset, loop_config: loop.LoopConfig) -> dict[str, Any]:
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
        "metric": loop_config.metric,
        "config": settings,
    }


def used_memory(setup: Setup, programs: Programs, phases: Phases) -> dict[str, Any]:
    """Returns the memory of the longest step according to XLA, and as measured on the device.

    `compiled` and the measured figures cover all runs that trained together, `plan` covers one.

    `measured_growth` is the allocator's peak on an accelerator. On the CPU it is the growth of the
    process between the creation of the state and the end of the first epoch's steps, plus the
    checkpoint's weights, which were read before and are used in place. It is None for a run with
    `model.keep_frozen`: the layers that are computed before the first step take more.

    `held` and `phases` are of `jaxft.run.phases.Phases`.
    """
    compiled = compiled_bytes(programs.train.largest())
    peak, measured_by = measured_peak()
    used, grown = allocator_peak(), phases.growth.bytes()
    if used is None and grown is not None:
        used = grown + sum(x.nbytes for x in setup.parts.weights.values())
    if setup.parts.model.kept is not None:
        used = None
    return {
        "plan": programs.alone,
        "compiled": compiled,
        "measured_peak": peak,
        "measured_by": measured_by,
        "measured_growth": used,
        "measured_growth_percent": used and 100 * (used / compiled["peak"] - 1),
        "held": phases.held,
        "phases": phases.found,
        "device": jax.devices()[0].device_kind,
    }


def timing(
    setup: Setup,
    runs: int,
    record: dict[str, Any],
    programs: Programs,
) -> dict[str, Any]:
    """Returns `timing` of results.json; padding is not in the tokens but in `padding_fraction`.

    `train_s` and the rates are of all the runs that trained together. If a run took some of its
    steps with fewer others, they are what they would be with as many as at its end.
    """
    loop_config, data = setup.loop_config, setup.data["train"]
    epochs = len(record["history"])
    run_train, run_eval = programs.train, programs.evaluate
    layout, rows = loop_config.layout, loop_config.batch_size
    shapes = train_lengths(loop_config, data, epochs)
    padded = layout.tokens * len(shapes) if layout else rows * sum(map(width, shapes))
    tokens = epochs * sum(map(len, data.ids))
    seconds = runs * loop.own_seconds(record, runs)
    return {
        "start_s": programs.ready_s + setup.keep_s,
        "compile_s": programs.compile_s,
        "train_s": seconds,
        "seeds_together": runs,
        "examples_per_s": runs * epochs * len(data.ids) / seconds,
        "tokens_per_s": runs * tokens / seconds,
        "padding_fraction": 1 - tokens / padded,
        "compiled_shapes": len(run_train.executables) + len(run_eval.executables),
    }
