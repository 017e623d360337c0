"""The settings and results of a run for TensorBoard's HPARAMS tab.

    settings(results)     # {"task": "acl_sup", "model": "minilm", "method": "lora", ...}
    scores(results)       # {"Result/test_accuracy": 0.717, "Result/test_macro_f1": 0.642, ...}
    log.write_result(settings(results), scores(results))      # a jaxft.training.event_log.RunLog

The settings are those that the report uses to distinguish runs, under the same names. Options that
a method does not use are omitted.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

from jaxft.reporting import aggregate, facts
from jaxft.reporting.schema import RunResults, flat
from jaxft.training.selection import best_entry

Setting = str | float | bool  # the types that TensorBoard knows

# Fields that only some tasks read, and what those are called.
OF_TASKS = {
    **dict.fromkeys(("data.hub", "data.labels", "data.columns.", "data.label_separator"), "custom"),
    "data.few_shot": "_fs",
}


def settings(results: Mapping[str, Any]) -> dict[str, Setting]:
    """Returns a run's settings, of the types that TensorBoard knows, given its results.json."""
    # Shortened among all fields, so that runs of other methods get the same names.
    names = list(flat(results["config"]))
    fields = aggregate.settings(cast(RunResults, results))
    task, model, method = (fields.pop(name) for name in ("task", "model.name", "method.name"))
    return {
        "task": task,
        "model": aggregate.short_names([model])[model],
        "method": method,
        "seed": str(results["seed"]),  # no quantity: as a text each can be ticked
        **{aggregate.short(n, names): as_setting(x) for n, x in fields.items() if is_read(n, task)},
    }


def is_read(field: str, task: str) -> bool:
    """Whether a task, or several with commas, reads a field of the config."""
    return all(name in task for start, name in OF_TASKS.items() if field.startswith(start))


def as_setting(value: Any) -> Setting:
    """Returns numbers and booleans as they are, anything else as text."""
    return value if isinstance(value, int | float) else aggregate.shown(value)


def scores(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns a run's figures; one that does not exist is left out.

    The tab shows the first five by name; a capital letter puts them before the curves'.
    """
    timing, best = (
        results["timing"],
        best_entry(results["history"], results.get("metric", "macro_f1")),
    )
    run = cast(RunResults, results)
    main = facts.main_metric(run)
    found = {
        f"best_dev_{main}": best["dev"].get(main) if best else None,
        **{f"test_{name}": results["test"].get(name) for name in facts.shown_metrics(run)},
        f"test_unseen_{main}": results["test_unseen"].get(main),
        "trained_parameters": results["parameters"]["trained"],
        # Its share, if several runs trained together.
        "training_seconds": timing["train_s"] / timing["seeds_together"],
    }
    return {f"Result/{n}": x for n, x in found.items() if x is not None and math.isfinite(x)}
