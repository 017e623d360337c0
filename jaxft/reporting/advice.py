"""Tables of what fits a device, and of what a setting needs.

    print(table(rows))                 # of `jaxft memory`: plans, what fits, or what is needed
    print(settings_table(fitted))      # of rows with `fit`: settings, the fewest operations first

Each group of rows (`jaxft.reporting.plans`) has a table.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.reporting import footprint
from jaxft.reporting.facts import LABEL_WIDTH
from jaxft.reporting.formats import rate, shorten
from jaxft.reporting.plans import (
    frozen_of,
    group_key,
    groups,
    mesh_name,
    peak,
    ratio,
    title_of,
    unit_of,
)
from jaxft.reporting.schema import PlanRow
from jaxft.reporting.table import Entry, Table, name_entry, number_entry, of_columns, share_entry

LEFT = frozenset({"remat", "stored", "device", "mesh", "too small"})
TERMS_SETTINGS = (
    "Settings with the asked number of examples an update: those with the fewest operations first. "
    "accumulate: batches averaged into one update; stored: the dtype of frozen parameters; "
    "GFLOP/example: of a step, before XLA optimizes it."
)
TERMS_NEEDS = (
    "device: the smallest whose memory the step fits, compiled for it, with the CUDA context and "
    "NCCL's buffers; too small: the devices that it was compiled for before, and did not fit."
)


def table(rows: Sequence[PlanRow]) -> str:
    """Returns the tables of rows as they are printed: with `need`, with `fit`, or plans."""
    if "need" in rows[0]:
        return needs_table(rows)
    if "fit" not in rows[0]:
        return footprint.plan_table(rows)
    return "\n\n".join([footprint.fit_table(rows), settings_table(rows)]).rstrip()


def markdown(rows: Sequence[PlanRow]) -> str:
    """Returns the same tables, and the plans of all rows, in Markdown."""
    blocks = [found.markdown() for found in (*settings_tables(rows), *needs_tables(rows))]
    return "\n\n".join([*blocks, footprint.markdown(rows)])


def settings_table(rows: Sequence[PlanRow]) -> str:
    """Returns the settings of rows with `fit`; empty for rows of an older jaxft, without them."""
    tables = list(settings_tables(rows))
    return footprint.in_terminal(iter(tables), [TERMS_SETTINGS]) if tables else ""


def needs_table(rows: Sequence[PlanRow]) -> str:
    """Returns the smallest device of each row with `need`."""
    return footprint.in_terminal(needs_tables(rows), [TERMS_NEEDS])


def settings_tables(rows: Sequence[PlanRow]) -> Iterator[Table]:
    """Yields a table for each group, all methods in one order."""
    fitted = [row for row in rows if row.get("fit", {}).get("settings")]
    unit = unit_of(fitted)
    for group in by_examples(fitted):
        found = [(row, one) for row in group for one in row["fit"]["settings"]]
        found.sort(key=lambda pair: pair[1]["flops_per_example"] or float("inf"))
        limit, examples = group[0]["fit"]["limit"], group[0]["fit"]["examples"]
        columns = {
            "method": [name_entry(shorten(row["label"], LABEL_WIDTH)) for row, _ in found],
            "batch": [number_entry(one["batch_size"]) for _, one in found],
            "accumulate": [number_entry(one["accumulate"]) for _, one in found],
            "remat": [name_entry(one["remat"]) for _, one in found],
            "stored": [name_entry(one["frozen_dtype"]) for _, one in found],
            "mesh": [name_entry(mesh_name(one["mesh"])) for _, one in found],
            "peak": [footprint.amount_entry(one["peak"], unit) for _, one in found],
            "of limit": [share_entry(ratio(one["peak"], limit)) for _, one in found],
            "GFLOP/example": [per_example(one["flops_per_example"]) for _, one in found],
        }
        title = f"{title_of(group)}, {examples} examples an update; {unit} a device"
        yield of_columns(columns, title=title, left=LEFT)


def by_examples(rows: Sequence[PlanRow]) -> Iterator[list[PlanRow]]:
    """Yields the groups of rows with `fit`, those for one number of examples an update together."""
    for group in groups(rows):
        for examples in dict.fromkeys(row["fit"]["examples"] for row in group):
            yield [row for row in group if row["fit"]["examples"] == examples]


def needs_tables(rows: Sequence[PlanRow]) -> Iterator[Table]:
    """Yields a table for each model, dtype, batch and length."""
    rows = [row for row in rows if row.get("need")]
    unit = unit_of(rows)
    for group in by_setting(rows):
        first = group[0]
        columns = {
            "method": [name_entry(shorten(row["label"], LABEL_WIDTH)) for row in group],
            "remat": [name_entry(row["remat"]) for row in group],
            "stored": [name_entry(frozen_of(row)) for row in group],
            "device": [name_entry(row["target"]) for row in group],
            "mesh": [name_entry(mesh_name(row["mesh"])) for row in group],
            "memory": [footprint.amount_entry(row["memory_bytes"], unit) for row in group],
            "peak": [footprint.amount_entry(peak(row), unit) for row in group],
            "of memory": [share_entry(ratio(peak(row), row["memory_bytes"])) for row in group],
            "GFLOP": [footprint.flops_entry(row["flops"]) for row in group],
            "too small": [name_entry(", ".join(row["need"]["too_small"])) for row in group],
        }
        batch = f"batch {first['batch_size']:,} x {first['length']} tokens"
        title = f"{first['model']}, {first['dtype']}, {batch}; {unit} a device"
        yield of_columns(columns, title=title, left=LEFT).without_missing()


def by_setting(rows: Sequence[PlanRow]) -> list[list[PlanRow]]:
    """The rows by all that their group shares but the device."""
    found: dict[tuple[Any, ...], list[PlanRow]] = {}
    for row in rows:
        found.setdefault(group_key(row)[2:], []).append(row)
    return list(found.values())


def per_example(flops: float | None) -> Entry:
    """Operations of an example in GFLOP."""
    return Entry(rate(None if flops is None else flops / 1e9), flops)
