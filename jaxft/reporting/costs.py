"""Memory of a group's training step: one run alone, by partition, and runs that trained together.

memory_table(groups)         # a row for each group, from the planner's row of one run
together_table(groups)       # a row for each group whose runs trained in one program
"""

import math
from collections.abc import Mapping, Sequence
from typing import cast

from jaxft.reporting.aggregate import RunGroup, name_of
from jaxft.reporting.facts import (
    alone_peak,
    compiled_peak,
    measured_growth,
    runs_together,
)
from jaxft.reporting.formats import MINUS, NONE
from jaxft.reporting.plans import parts, peak, saved_share
from jaxft.reporting.schema import Compiled, PlanRow, RunResults, partitions
from jaxft.reporting.stats import spread
from jaxft.reporting.table import (
    Entry,
    Table,
    bytes_entry,
    name_entry,
    number_entry,
    share_entry,
    size_entry,
    time_entry,
)

# Column -> kind of the planner's breakdown of a step's memory.
PARTS = {
    "frozen": "frozen",
    "trained": "trained",
    "optimizer": "optimizer",
    "live grads": "gradients",
    "activations": "activations",
    "workspace": "workspace",
    "temporaries": "temporaries",
}


# ---------------------------------------------------------------- one run alone


def alone(group: RunGroup) -> PlanRow | None:
    """The planner's row of one run of a group; None if there is no plan of it.

    For a run of an older jaxft that trained alone, temporaries are not broken down.
    """
    results = group.first
    plan, compiled = results["memory"].get("plan"), results["memory"].get("compiled")
    if plan:
        row = {**plan, "model": group.model, "method": group.method, "label": group.label}
        return cast(PlanRow, row)
    if not compiled or runs_together(results) > 1:
        return None
    return row_of_program(group, results, compiled)


def row_of_program(group: RunGroup, results: RunResults, compiled: Compiled) -> PlanRow:
    """The planner's row made from the program of a run that trained alone."""
    memory, config = results["memory"], results["config"]
    devices = len(group.all_runs[0].env["devices"])
    sizes = partitions(memory)
    trained = [x for name, x in sizes.items() if name != "frozen"]
    breakdown = {
        "frozen": sizes["frozen"]["params_bytes"] if "frozen" in sizes else 0,
        "trained": sum(x["params_bytes"] for x in trained),
        "optimizer": sum(x["opt_state_bytes"] for x in sizes.values()),
        "temporaries": compiled["temporaries"],
    }
    return {
        "model": group.model,
        "method": group.method,
        "label": group.label,
        "remat": config["model"]["remat"],
        "dtype": config["model"]["dtype"],
        "target": memory.get("device", "unknown"),
        "devices": devices,
        "mesh": mesh_sizes(config["mesh"], devices),
        "memory_bytes": None,
        "batch_size": config["batch_size"],
        "seeds": 1,
        "length": f"≤{config['data']['max_length']}",
        "parameters": results["parameters"],
        "partitions": sizes,
        "compiled": compiled,
        "breakdown": breakdown | {"other": compiled["peak"] - sum(breakdown.values())},
        "flops": None,
        "moved": {},
    }


def mesh_sizes(mesh: Mapping[str, int], devices: int) -> dict[str, int]:
    """The axes of a config, with -1 replaced by the number of devices that are left for it."""
    known = math.prod(size for size in mesh.values() if size > 0)
    return {axis: size if size > 0 else devices // known for axis, size in mesh.items()}


def memory_parts(group: RunGroup) -> dict[str, int]:
    """The peak of one run alone by purpose, in bytes; empty without a plan."""
    row = alone(group)
    return parts(row) if row else {}


def memory_table(groups: Sequence[RunGroup]) -> Table | None:
    """The memory of a step of one run alone, by partition; None if no group has a plan."""
    rows = [alone(group) for group in groups]
    if not any(rows):
        return None
    lines = []
    for group, row in zip(groups, rows, strict=True):
        sizes = parts(row) if row else {}
        of_model = zip(groups, rows, strict=True)
        comparable = [x for other, x in of_model if x and other.model == group.model]
        lines.append(
            (
                name_entry(name_of(group, groups)),
                *(bytes_entry(sizes.get(kind)) for kind in PARTS.values()),
                bytes_entry(peak(row) if row else None),
                share_entry(saved_share(row, comparable) if row else None),
                *measured_entries(group if runs_together(group.first) == 1 else None),
            )
        )
    heads = ("method", *PARTS, "peak", "saved", "measured", "above")
    return Table(heads, lines).without_missing(keep=("method",))


# ---------------------------------------------------------------- runs that trained together


def together_table(groups: Sequence[RunGroup]) -> Table | None:
    """Memory and time of runs that trained in one program; None if there are none."""
    together = [group for group in groups if runs_together(group.first) > 1]
    if not together:
        return None
    heads = ("method", "runs together", "peak", "to one", "measured", "above", "time")
    return Table(heads, [together_row(group, name_of(group, groups)) for group in together])


def together_row(group: RunGroup, name: str) -> tuple[Entry, ...]:
    """The entries of a group whose runs trained in one program."""
    results = [run.results for run in group.runs]
    whole, one = spread(list(map(compiled_peak, results))), spread(list(map(alone_peak, results)))
    factor = whole.mean / one.mean if whole and one else None
    return (
        name_entry(name),
        number_entry(runs_together(group.first)),
        size_entry(whole),
        Entry(NONE if factor is None else f"{factor:.2f}x", factor),
        *measured_entries(group),
        time_entry(spread([x["timing"].get("train_s") for x in results])),
    )


def measured_entries(group: RunGroup | None) -> tuple[Entry, Entry]:
    """The measured bytes of a group's program, and their excess over XLA's; or dashes."""
    growths = [measured_growth(run.results["memory"]) for run in group.runs] if group else []
    above = spread([percent for _, percent in growths])
    if above is None:
        return Entry(NONE), Entry(NONE)
    size = size_entry(spread([used for used, _ in growths]))
    return size, Entry(f"{above.mean:+.1f}%".replace("-", MINUS), above.mean)
