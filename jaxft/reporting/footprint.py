"""Tables of memory plans: the needs of each method's training step, and the largest batch.

    print(plan_table(rows))       # rows as `python -m jaxft.memory` makes them
    print(fit_table(fitted))      # those of `--fit`: the largest batch of each method
    Path("plan.md").write_text(markdown(rows))

Each group of rows (`jaxft.reporting.plans`) has a table. XLA's figures are of one device.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxft.reporting.facts import LABEL_WIDTH
from jaxft.reporting.formats import amount, figure, rate, shorten, times
from jaxft.reporting.overhead import TERMS as OVERHEAD_TERMS
from jaxft.reporting.overhead import overhead_table, overhead_tables
from jaxft.reporting.plans import (
    batches_vary,
    does_not_fit,
    fit_to_full,
    frozen_of,
    groups,
    has_other_frozen,
    has_several_seeds,
    measured,
    measured_error,
    moved,
    parts,
    peak,
    planned,
    ratio,
    remats_vary,
    saved_share,
    seeds_of,
    title_of,
    to_one_seed,
    unit_of,
)
from jaxft.reporting.schema import PlanRow
from jaxft.reporting.table import (
    WIDTH,
    Entry,
    Table,
    count_entry,
    name_entry,
    number_entry,
    of_columns,
    share_entry,
)

Columns = dict[str, list[Entry]]

# Columns that are kept even if they are empty.
ALWAYS = ("method", "trained", "params", "gradients", "optimizer", "peak", "saved")

TERMS = (
    "gradients: of all trained parameters; live grads: those alive at the peak, written by the "
    "backward pass and read by the optimizer; activations: what the forward pass keeps for the "
    "backward pass; workspace: the rest. Peak = params + optimizer + live grads + activations + "
    "workspace."
)
TERMS_UNDIVIDED = (
    "temporaries: live gradients, activations and workspace, if the compiler does not "
    "distinguish them. Peak = params + optimizer + temporaries."
)
TERMS_STORED = (
    "stored: the dtype of frozen parameters (model.frozen_dtype); int8 and nf4 are for the kernels "
    "of the layers, and the rest has 16 or 32 bit."
)
TERMS_FLOPS = "GFLOP: of one step, all devices together."
TERMS_MOVED = (
    "moved: what a device sends to others in a step, by ring algorithms, read from the compiled "
    "program: reduced (all-reduce), gathered (all-gather), scattered (reduce-scatter) and other."
)
TERMS_SEEDS = (
    "seeds: how many train together in one step, each with its own batch of this size; "
    "trained: by each; saved: against full fine-tuning of the same number of seeds; to one: the "
    "peak as a multiple of that of one seed."
)
TERMS_FIT = (
    "largest batch: examples a step, over all devices, whose peak is within the limit; to full: as "
    "a multiple of the largest batch of full fine-tuning."
)
TERMS_FIT_SEEDS = (
    "seeds: how many train together in one step, each with its own batch of this size."
)


# ---------------------------------------------------------------- text and Markdown


def plan_table(rows: Sequence[PlanRow]) -> str:
    """Returns a table for each group, a line for each method and remat, and the terms used.

    Below it is what a process takes beside the peak, where the rows know it.

    Args:
      rows: plans; a missing figure is None and shows as a dash.
    """
    plans = in_terminal(plan_tables(rows), plan_terms(rows))
    return "\n\n".join(filter(None, [plans, overhead_table(rows)]))


def fit_table(rows: Sequence[PlanRow]) -> str:
    """Returns the largest batch of each method, its peak by the limit, and the batch by full's.

    Args:
      rows: plans with `fit`; others are left out.
    """
    return in_terminal(fit_tables(rows), fit_terms(rows))


def in_terminal(tables: Iterator[Table], terms: Sequence[str]) -> str:
    """The tables, and below them the lines on their terms."""
    lines = (textwrap.fill(text, WIDTH) for text in terms)
    return "\n\n".join([*(table.text() for table in tables), *lines])


def markdown(rows: Sequence[PlanRow]) -> str:
    """Returns both kinds of table in Markdown: largest batches of rows with `fit`, plans of all."""
    blocks = [table.markdown() for table in fit_tables(rows)] + fit_terms(rows)
    blocks += [table.markdown() for table in plan_tables(rows)] + plan_terms(rows)
    beside = [table.markdown() for table in overhead_tables(rows)]
    blocks += [*beside, OVERHEAD_TERMS] if beside else []
    return "\n\n".join(blocks)


# ---------------------------------------------------------------- plans


def plan_tables(rows: Sequence[PlanRow]) -> Iterator[Table]:
    """Yields the table of each group; all are in one unit."""
    unit = unit_of(rows)
    for group in groups(rows):
        title = f"{title_of(group)}; {unit} a device"
        columns = {
            **name_columns(group, rows),
            "trained": [trained_entry(row) for row in group],
            **size_columns(group, unit),
            **cost_columns(group, unit),
            "": [mark_entry(row) for row in group],
        }
        table = of_columns(columns, title=title, left=frozenset({"remat", "stored"}))
        yield table.without_missing(keep=ALWAYS)


def size_columns(group: Sequence[PlanRow], unit: str) -> Columns:
    """The columns of memory: by accounting, by purpose, the peak and its comparisons."""
    columns: dict[str, list[int | None]] = {
        "params": [planned(row, "params_bytes") for row in group],
        "gradients": [planned(row, "grad_bytes") for row in group],
        "optimizer": [planned(row, "opt_state_bytes") for row in group],
        "live grads": [parts(row).get("gradients") for row in group],
        "activations": [parts(row).get("activations") for row in group],
        "workspace": [parts(row).get("workspace") for row in group],
        "temporaries": [parts(row).get("temporaries") for row in group],
        "peak": [peak(row) for row in group],
    }
    return {
        **{head: [amount_entry(n, unit) for n in sizes] for head, sizes in columns.items()},
        "saved": [share_entry(saved_share(row, group)) for row in group],
        "to one": [times_entry(to_one_seed(row, group)) for row in group],
    }


def cost_columns(group: Sequence[PlanRow], unit: str) -> Columns:
    """The columns of operations, of bytes sent to other devices, and of measurements."""
    sent = {
        "reduced": [moved(row, "all-reduce") for row in group],
        "gathered": [moved(row, "all-gather") for row in group],
        "scattered": [moved(row, "reduce-scatter") for row in group],
        "other": [moved(row, "all-to-all", "collective-permute") for row in group],
        "moved": [moved(row, *row["moved"]) for row in group],
    }
    return {
        "GFLOP": [flops_entry(row["flops"]) for row in group],
        **{head: [amount_entry(n, unit) for n in sizes] for head, sizes in sent.items()},
        "s/step": [Entry(figure(row.get("step_s")), row.get("step_s")) for row in group],
        "measured": [amount_entry(measured(row), unit) for row in group],
        "error": [share_entry(measured_error(row)) for row in group],
    }


def name_columns(
    group: Sequence[PlanRow], rows: Sequence[PlanRow], *, with_batch: bool = True
) -> Columns:
    """The columns that distinguish the rows of a group; `rows` are those of all groups."""
    columns = {"method": [name_entry(shorten(row["label"], LABEL_WIDTH)) for row in group]}
    if has_other_frozen(rows):
        columns["stored"] = [name_entry(frozen_of(row)) for row in group]
    if remats_vary(rows):
        columns["remat"] = [name_entry(row["remat"]) for row in group]
    if has_several_seeds(rows):
        columns["seeds"] = [number_entry(seeds_of(row)) for row in group]
    if with_batch and batches_vary(group):
        columns["batch"] = [number_entry(row["batch_size"]) for row in group]
    return columns


def plan_terms(rows: Sequence[PlanRow]) -> list[str]:
    """The lines on the terms of the columns that occur."""
    undivided = {"temporaries" in parts(row) for row in rows if parts(row)}
    counts_all_devices = any(row["flops"] is not None and row["devices"] > 1 for row in rows)
    lines = [
        (TERMS, False in undivided),
        (TERMS_UNDIVIDED, True in undivided),
        (TERMS_STORED, has_other_frozen(rows)),
        (TERMS_SEEDS, has_several_seeds(rows)),
        (TERMS_FLOPS, counts_all_devices),
        (TERMS_MOVED, any(moved(row, *row["moved"]) for row in rows)),
    ]
    return [text for text, occurs in lines if occurs]


# ---------------------------------------------------------------- largest batches


def fit_tables(rows: Sequence[PlanRow]) -> Iterator[Table]:
    """Yields the table of each group of rows with `fit`."""
    rows = [row for row in rows if row.get("fit")]
    unit = unit_of(rows)
    for found in groups(rows):
        group = once_each(found)
        limit = group[0]["fit"]["limit"]
        columns = {
            **name_columns(group, rows, with_batch=False),
            "largest batch": [number_entry(row["fit"]["largest_batch"]) for row in group],
            "peak": [amount_entry(peak(row), unit) for row in group],
            "of limit": [share_entry(ratio(peak(row), limit)) for row in group],
            "to full": [times_entry(fit_to_full(row, group)) for row in group],
            "": [mark_entry(row) for row in group],
        }
        title = f"{title_of(group)}; {unit} a device"
        table = of_columns(columns, title=title, left=frozenset({"remat", "stored"}))
        yield table.without_missing(keep=ALWAYS)


def once_each(group: Sequence[PlanRow]) -> list[PlanRow]:
    """Returns the rows without those that differ only in the batch that was asked for."""
    names = ("label", "remat", "frozen_dtype", "seeds")
    return list({tuple(row.get(name) for name in names): row for row in group}.values())


def fit_terms(rows: Sequence[PlanRow]) -> list[str]:
    """The lines on the terms of rows with `fit`; none if there are no such rows."""
    rows = [row for row in rows if row.get("fit")]
    lines = [(TERMS_FIT, bool(rows)), (TERMS_FIT_SEEDS, has_several_seeds(rows))]
    return [text for text, occurs in lines if occurs]


# ---------------------------------------------------------------- hand estimates


def estimate_table(
    title: str, estimates: Sequence[Mapping[str, Any]], differences: Sequence[str]
) -> str:
    """Returns estimates of training memory by hand, in GB, and why a compiler's figures differ.

    Args:
      title: the case that they are of.
      estimates: `source`, `formula`, `note`, and bytes of full fine-tuning and of PEFT, computed
        and as printed in the source: `full_bytes`, `quoted_full_bytes` and the same of `peft`.
      differences: sentences.
    """
    kinds = ("full_bytes", "quoted_full_bytes", "peft_bytes", "quoted_peft_bytes")
    heads = ("by hand", "full", "as printed", "PEFT", "as printed", "formula")
    rows = [
        (
            name_entry(row["source"]),
            *(amount_entry(row[kind], "GB") for kind in kinds),
            name_entry(row["formula"]),
        )
        for row in estimates
    ]
    notes = dict.fromkeys(f"{row['source']}: {row['note']}" for row in estimates if row["note"])
    reasons = "Why XLA's figures differ: " + " ".join(differences)
    return Table(heads, rows, title=title, notes=(*notes, reasons)).text()


# ---------------------------------------------------------------- entries


def amount_entry(n: float | None, unit: str) -> Entry:
    """`1,234.5` of a unit, sorted by the bytes."""
    return Entry(amount(n, unit), n)


def times_entry(value: float | None) -> Entry:
    """`3.1x`."""
    return Entry(times(value), value)


def flops_entry(flops: float | None) -> Entry:
    """Operations of a step in GFLOP."""
    return Entry(rate(None if flops is None else flops / 1e9), flops)


def trained_entry(row: PlanRow) -> Entry:
    """`294,912 (0.24%)`."""
    return count_entry(row["parameters"]["trained"], row["parameters"]["total"])


def mark_entry(row: PlanRow) -> Entry:
    """`does not fit`, or nothing."""
    return name_entry("does not fit" if does_not_fit(row) else "")
