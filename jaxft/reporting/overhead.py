"""What a training process takes of a device beside the peak, as a small table below the plans.

print(overhead_table(rows))       # empty for the CPU, and for plans of an older jaxft

The figures and their sources are `jaxft.planning.overhead`'s; the JSON has all of them.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence

from jaxft.planning.devices import PREALLOCATED
from jaxft.reporting.facts import LABEL_WIDTH
from jaxft.reporting.formats import amount, shorten
from jaxft.reporting.plans import frozen_of, groups, peak, title_of, unit_of
from jaxft.reporting.schema import OverheadRow, PlanRow
from jaxft.reporting.table import WIDTH, Entry, Table, name_entry, of_columns

HEADS = ("rounding", "batches in flight", "CUDA context", "NCCL", "XLA's reserve")

TERMS = (
    "Beside the peak, on one device. rounding: of each array to 256 bytes; batches in flight: the "
    "next batch, while a step runs; CUDA context and NCCL: estimates, not measured by jaxft (the "
    "JSON has the range and the sources). cuBLAS and cuDNN take theirs from the peak. on demand: "
    "what nvidia-smi shows with XLA_PYTHON_CLIENT_PREALLOCATE=false; at most: with the highest "
    "figures found; by default: with the 75 % of the memory that JAX takes at its start. fraction: "
    "the XLA_CLIENT_MEM_FRACTION that the step needs."
)


def overhead_table(rows: Sequence[PlanRow]) -> str:
    """Returns the tables of all groups and their terms; empty if no row has an overhead."""
    tables = [table.text() for table in overhead_tables(rows)]
    return "\n\n".join([*tables, textwrap.fill(TERMS, WIDTH)]) if tables else ""


def overhead_tables(rows: Sequence[PlanRow]) -> Iterator[Table]:
    """Yields the table of each group of rows that has an overhead."""
    unit = unit_of(rows)
    for group in groups([row for row in rows if row.get("overhead")]):
        columns = {
            "method": [name_entry(shorten(row["label"], LABEL_WIDTH)) for row in group],
            "remat": [name_entry(row["remat"]) for row in group],
            "stored": [name_entry(frozen_of(row)) for row in group],
            **{head: [part_entry(found(row, head), unit) for row in group] for head in HEADS},
            "on demand": [part_entry(found(row, "on demand"), unit) for row in group],
            "at most": [most_entry(found(row, "on demand"), unit) for row in group],
            "by default": [part_entry(found(row, "preallocated"), unit) for row in group],
            "fraction": [fraction_entry(row) for row in group],
        }
        for name in ("remat", "stored"):
            if len({entry.text for entry in columns[name]}) == 1:
                del columns[name]
        title = f"{title_of(group)}: beside the peak, {unit} a device"
        table = of_columns(columns, title=title, left=frozenset({"remat", "stored"}))
        yield table.without_missing(keep=("method",))


def found(row: PlanRow, name: str) -> OverheadRow | None:
    """The overhead's row of a name."""
    return next((one for one in row.get("overhead", []) if one["name"] == name), None)


def part_entry(one: OverheadRow | None, unit: str) -> Entry:
    """`300.0`."""
    size = one["bytes"] if one else None
    return Entry(amount(size, unit), size)


def most_entry(one: OverheadRow | None, unit: str) -> Entry:
    """`1,574.0`: the sum of the highest figures."""
    size = one["high"] if one else None
    return Entry(amount(size, unit), size)


def fraction_entry(row: PlanRow) -> Entry:
    """`0.91`: the share of the memory that the allocator needs.

    A dash where 75 % is enough, where no share is, and for a present device, whose memory is the
    allocator's.
    """
    size, memory = peak(row), row["memory_bytes"]
    inside = sum(one["bytes"] for one in row["overhead"] if one["basis"] == "computed")
    if size is None or not memory or found(row, "preallocated") is None:
        return Entry(amount(None, "MiB"))
    needed = math.ceil(100 * (size + inside) / memory) / 100
    if not PREALLOCATED < needed <= 1:
        return Entry(amount(None, "MiB"))
    return Entry(f"{needed:.2f}", needed)
