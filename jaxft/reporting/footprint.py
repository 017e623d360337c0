"""Tables of memory plans: what a training step of each method needs, and how large a batch fits.

    print(plan_table(rows))       # rows as `python -m jaxft.memory` makes them
    print(fit_table(rows))        # those of `--fit`: the largest batch of each method
    Path("plan.md").write_text(markdown(rows))

Rows that share target, model, dtype, batch and length are a group; savings are against full
fine-tuning of as many seeds in the same group. XLA's figures are of one device.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from jaxft.reporting.model_card import escape, markdown_table
from jaxft.reporting.tables import (
    LABEL_WIDTH,
    NONE,
    columns,
    figure,
    human_bytes,
    percent,
    rate,
    shorten,
)

Row = Mapping[str, Any]
Table = dict[str, list[str]]  # head -> cells

# name -> (bytes, decimals)
UNITS = {"MiB": (2**20, 1), "GiB": (2**30, 3), "GB": (10**9, 2)}
WIDTH = 100

# Columns that stay even if there is nothing in them.
ALWAYS = ("method", "trained", "params", "gradients", "optimizer", "peak", "saved")

TERMS = (
    "gradients: of all trained parameters; live grads: those alive at the peak, written by the "
    "backward pass and read by the optimizer; activations: what the forward pass keeps for the "
    "backward pass; workspace: the rest. Peak = params + optimizer + live grads + activations + "
    "workspace."
)
TERMS_UNDIVIDED = (
    "temporaries: live gradients, activations and workspace, where the compiler does not tell them "
    "apart. Peak = params + optimizer + temporaries."
)
TERMS_FLOPS = "GFLOP: of one step, all devices together."
TERMS_MOVED = (
    "moved: what a device sends to others in a step, by ring algorithms, read from the compiled "
    "program: reduced (all-reduce), gathered (all-gather), scattered (reduce-scatter) and other."
)
TERMS_SEEDS = (
    "seeds: how many train together in one step, each with a batch of its own of this size; "
    "trained: by each; saved: against full fine-tuning of as many; to one: the peak as a multiple "
    "of that of one seed."
)
TERMS_FIT = (
    "largest batch: examples a step, over all devices, whose peak is within the limit; to full: as "
    "a multiple of the largest batch of full fine-tuning."
)
TERMS_FIT_SEEDS = "seeds: how many train together in one step, each with such a batch of its own."


# ---------------------------------------------------------------- tables


def plan_table(rows: Sequence[Row]) -> str:
    """Returns a table for each group, a line for each method and remat, and what the terms mean.

    Args:
      rows: plans; a missing figure is None and shows as a dash.
    """
    blocks = [in_terminal(title, table) for title, table in plan_tables(rows)]
    return "\n\n".join([*blocks, *(textwrap.fill(text, WIDTH) for text in plan_terms(rows))])


def fit_table(rows: Sequence[Row]) -> str:
    """Returns the largest batch of each method, and what it is by the limit and by full's.

    Args:
      rows: plans with `fit`; others are left out.
    """
    blocks = [in_terminal(title, table) for title, table in fit_tables(rows)]
    return "\n\n".join([*blocks, *(textwrap.fill(text, WIDTH) for text in fit_terms(rows))])


def markdown(rows: Sequence[Row]) -> str:
    """Returns both kinds of table in Markdown: largest batches of rows with `fit`, plans of all."""
    fits, plans = list(fit_tables(rows)), list(plan_tables(rows))
    blocks = [in_markdown(title, table) for title, table in fits]
    blocks += fit_terms(rows)
    blocks += [in_markdown(title, table) for title, table in plans]
    return "\n\n".join([*blocks, *plan_terms(rows)])


def in_terminal(title: str, table: Table) -> str:
    """The title above a table without a frame."""
    lines = columns(list(table), list(zip(*table.values(), strict=True)))
    return "\n".join([title, *lines])


def in_markdown(title: str, table: Table) -> str:
    """The title above a table of pipes."""
    cells = list(zip(*table.values(), strict=True))
    return f"**{escape(title)}**\n\n{markdown_table(list(table), cells)}"


def plan_tables(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """Yields (title, table) of each group; all are in one unit."""
    unit = unit_of(rows)
    for group in groups(rows):
        yield f"{title_of(group)}; {unit} a device", plan_columns(group, rows, unit)


def plan_columns(group: Sequence[Row], rows: Sequence[Row], unit: str) -> Table:
    """Returns the table of a group.

    Args:
      group: rows that share their conditions.
      rows: all rows, which decide whether remat is worth a column.
      unit: one of `UNITS`.
    """
    size = partial(amount, unit=unit)
    table = {
        **name_columns(group, rows),
        "trained": [trained(row) for row in group],
        "params": [size(planned(row, "params_bytes")) for row in group],
        "gradients": [size(planned(row, "grad_bytes")) for row in group],
        "optimizer": [size(planned(row, "opt_state_bytes")) for row in group],
        "live grads": [size(parts(row).get("gradients")) for row in group],
        "activations": [size(parts(row).get("activations")) for row in group],
        "workspace": [size(parts(row).get("workspace")) for row in group],
        "temporaries": [size(parts(row).get("temporaries")) for row in group],
        "peak": [size(peak(row)) for row in group],
        "saved": [share(saved_share(row, group)) for row in group],
        "to one": [times(to_one_seed(row, group)) for row in group],
        "GFLOP": [rate(None if row["flops"] is None else row["flops"] / 1e9) for row in group],
        "reduced": [size(moved(row, "all-reduce")) for row in group],
        "gathered": [size(moved(row, "all-gather")) for row in group],
        "scattered": [size(moved(row, "reduce-scatter")) for row in group],
        "other": [size(moved(row, "all-to-all", "collective-permute")) for row in group],
        "moved": [size(moved(row, *row["moved"])) for row in group],
        "s/step": [figure(row.get("step_s")) for row in group],
        "measured": [size(measured(row)) for row in group],
        "error": [share(measured_error(row)) for row in group],
        "": [mark(row) for row in group],
    }
    return without_empty(table)


def moved(row: Row, *kinds: str) -> int | None:
    """Returns the bytes that a device sends in collectives of these kinds; None if none."""
    return sum(row["moved"][kind] for kind in kinds) or None


def measured(row: Row) -> int | None:
    """Returns the bytes that the steps of a plan were measured to use."""
    found = row.get("measured")
    return found["bytes"] if found else None


def measured_error(row: Row) -> float | None:
    """Returns by how much the measured bytes exceed the compiled ones, as a share of these."""
    used = measured(row)
    return None if used is None else used / row["compiled"]["peak"] - 1


def estimate_table(estimates: Sequence[Row], differences: Sequence[str]) -> str:
    """Returns what hand estimates of a model say, in GB, and why a compiler says something else.

    Args:
      estimates: `jaxft.planning.estimates.hand_estimates`.
      differences: sentences.
    """
    kinds = ("full_bytes", "quoted_full_bytes", "peft_bytes", "quoted_peft_bytes")
    heads = ("by hand", "full", "as printed", "PEFT", "as printed", "formula")
    cells = [
        (row["source"], *(amount(row[kind], unit="GB") for kind in kinds), row["formula"])
        for row in estimates
    ]
    notes = [f"{row['source']}: {row['note']}" for row in estimates if row["note"]]
    blocks = [
        "\n".join(["hand estimates of OpenLLaMA-3B; GB, 1e9 bytes", *columns(heads, cells)]),
        *(textwrap.fill(note, WIDTH) for note in dict.fromkeys(notes)),
        textwrap.fill("Why XLA's figures differ: " + " ".join(differences), WIDTH),
    ]
    return "\n\n".join(blocks)


def fit_tables(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """Yields (title, table) of each group of rows with `fit`."""
    rows = [row for row in rows if row.get("fit")]
    unit = unit_of(rows)
    for group in groups(rows):
        limit = group[0]["fit"]["limit"]
        table = {
            **name_columns(group, rows, with_batch=False),
            "largest batch": [f"{row['fit']['largest_batch']:,}" for row in group],
            "peak": [amount(peak(row), unit) for row in group],
            "of limit": [share(ratio(peak(row), limit)) for row in group],
            "to full": [times(fit_to_full(row, group)) for row in group],
            "": [mark(row) for row in group],
        }
        yield f"{title_of(group)}; {unit} a device", without_empty(table)


def name_columns(group: Sequence[Row], rows: Sequence[Row], *, with_batch: bool = True) -> Table:
    """The columns that tell the rows of a group apart."""
    table = {"method": [shorten(row["label"], LABEL_WIDTH) for row in group]}
    if varies(rows, "remat"):
        # Padded, because `columns` sets all but the first column to the right.
        width = max(len(row["remat"]) for row in rows)
        table["remat"] = [row["remat"].ljust(width) for row in group]
    if has_several_seeds(rows):
        table["seeds"] = [f"{seeds_of(row):,}" for row in group]
    if with_batch and varies(group, "batch_size"):
        table["batch"] = [f"{row['batch_size']:,}" for row in group]
    return table


def without_empty(table: Table) -> Table:
    """Leaves out columns without a figure."""
    return {
        head: cells
        for head, cells in table.items()
        if head in ALWAYS or any(cell not in ("", NONE) for cell in cells)
    }


def plan_terms(rows: Sequence[Row]) -> list[str]:
    """The lines below the tables, as far as their columns occur."""
    undivided = {"temporaries" in parts(row) for row in rows if parts(row)}
    counts_all_devices = any(row["flops"] is not None and row["devices"] > 1 for row in rows)
    lines = [
        (TERMS, False in undivided),
        (TERMS_UNDIVIDED, True in undivided),
        (TERMS_SEEDS, has_several_seeds(rows)),
        (TERMS_FLOPS, counts_all_devices),
        (TERMS_MOVED, any(moved(row, *row["moved"]) for row in rows)),
    ]
    return [text for text, occurs in lines if occurs]


def fit_terms(rows: Sequence[Row]) -> list[str]:
    """The lines below the tables of rows with `fit`; none if there are no such rows."""
    rows = [row for row in rows if row.get("fit")]
    lines = [(TERMS_FIT, bool(rows)), (TERMS_FIT_SEEDS, has_several_seeds(rows))]
    return [text for text, occurs in lines if occurs]


# ---------------------------------------------------------------- groups


def group_key(row: Row) -> tuple[Any, ...]:
    """What the rows of a group share; in a fit the batch is the result, the limit is shared."""
    fit = row.get("fit")
    batch, limit = (None, fit["limit"]) if fit else (row["batch_size"], None)
    mesh = tuple(row["mesh"].values())
    return row["target"], mesh, row["model"], row["dtype"], batch, row["length"], limit


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows by group, both in the order in which they come."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(group_key(row), []).append(row)
    return list(found.values())


def title_of(group: Sequence[Row]) -> str:
    """`roberta-base, float32, h100:8 (8 devices of 80.0 GiB; fsdp 8), batch 32 x 128 tokens`."""
    row = group[0]
    devices = "1 device" if row["devices"] == 1 else f"{row['devices']} devices"
    memory = "" if row["memory_bytes"] is None else f" of {human_bytes(row['memory_bytes'])}"
    memory += "" if row["devices"] == 1 else f"; {mesh_name(row['mesh'])}"
    batch = f"batch {row['batch_size']:,} x {row['length']} tokens"
    if row.get("fit"):
        batch = f"{row['length']} tokens, limit {human_bytes(row['fit']['limit'])}"
    return f"{row['model']}, {row['dtype']}, {row['target']} ({devices}{memory}), {batch}"


def mesh_name(mesh: Mapping[str, int]) -> str:
    """`data 2 x fsdp 4`; axes of the size 1 are left out."""
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "data 1"


def varies(rows: Sequence[Row], field: str) -> bool:
    return len({row[field] for row in rows}) > 1


def seeds_of(row: Row) -> int:
    """How many seeds train together; rows of old plans do not say: one."""
    return row.get("seeds", 1)


def has_several_seeds(rows: Sequence[Row]) -> bool:
    return any(seeds_of(row) > 1 for row in rows)


def full_row(row: Row, rows: Sequence[Row]) -> Row | None:
    """Full fine-tuning of as many seeds in the row's group.

    The one without remat, else the one with the same.
    """
    key = group_key(row), seeds_of(row)
    fulls = [r for r in rows if r["method"] == "full" and (group_key(r), seeds_of(r)) == key]
    by_remat = {r["remat"]: r for r in reversed(fulls)}
    return by_remat.get("none") or by_remat.get(row["remat"])


# ---------------------------------------------------------------- figures of a row


def saved_share(row: Row, rows: Sequence[Row]) -> float | None:
    """Returns what the row's peak is less than full's, by full's; below 0 if it is more.

    None if there is no full row in the row's group, or none at the same batch.

    Args:
      rows: where to look for full (`full_row`).
    """
    full = full_row(row, rows)
    # The largest batches of two methods differ, and so would any peaks.
    if full is None or full["batch_size"] != row["batch_size"]:
        return None
    part = ratio(peak(row), peak(full))
    return None if part is None else 1 - part


def to_one_seed(row: Row, group: Sequence[Row]) -> float | None:
    """The peak of several seeds by that of one; None of one, and if one is not in the group."""
    if seeds_of(row) == 1:
        return None
    same = [r for r in group if (r["label"], r["remat"]) == (row["label"], row["remat"])]
    one = next((r for r in same if seeds_of(r) == 1), None)
    return None if one is None else ratio(peak(row), peak(one))


def fit_to_full(row: Row, rows: Sequence[Row]) -> float | None:
    """The row's largest batch by full's; None if there is no full row or not even that fits."""
    full = full_row(row, rows)
    if full is None:
        return None
    return ratio(row["fit"]["largest_batch"], full["fit"]["largest_batch"])


def peak(row: Row) -> int | None:
    """XLA's peak on one device; None if the compiler refused the program as too large."""
    return (row.get("compiled") or {}).get("peak")


def parts(row: Row) -> dict[str, int]:
    """The peak by purpose, with `other` in the workspace or in what stands for it."""
    sizes = dict(row.get("breakdown") or {})
    other = sizes.pop("other", 0)
    if sizes:
        sizes["temporaries" if "temporaries" in sizes else "workspace"] += other
    return sizes


def planned(row: Row, kind: str) -> int:
    """Bytes by accounting, over all partitions: one of `params_bytes`, `grad_bytes`, ..."""
    return sum(sizes[kind] for sizes in row["partitions"].values())


def does_not_fit(row: Row) -> bool:
    """Whether the step needs more than a device has; in a fit, more than the limit at any batch."""
    if row.get("fit") and row["fit"]["largest_batch"] == 0:
        return True
    size, memory = peak(row), row["memory_bytes"]
    return size is None or (memory is not None and size > memory)


def unit_of(rows: Sequence[Row]) -> str:
    """The unit in which all rows can be read: GiB if one needs tens of them."""
    largest = max((peak(row) or 0 for row in rows), default=0)
    return "GiB" if largest >= 10 * 2**30 else "MiB"


# ---------------------------------------------------------------- cells


def amount(n: float | None, unit: str) -> str:
    """`1,234.5` of the unit; what is not nothing never shows as 0.0."""
    if n is None:
        return NONE
    size, decimals = UNITS[unit]
    least = 10**-decimals
    return f"<{least}" if 0 < n / size < least / 2 else f"{n / size:,.{decimals}f}"


def trained(row: Row) -> str:
    """`294,912 (0.24%)`."""
    count, total = row["parameters"]["trained"], row["parameters"]["total"]
    return f"{count:,} ({percent(count, total)})"


def share(value: float | None) -> str:
    """`62.3%`, or a dash for None."""
    # Plus 0: a saving of -0.0 is none.
    return NONE if value is None else f"{round(100 * value, 1) + 0:.1f}%"


def times(value: float | None) -> str:
    """`3.1x`, or a dash for None."""
    return NONE if value is None else f"{value:.1f}x"


def mark(row: Row) -> str:
    return "does not fit" if does_not_fit(row) else ""


def ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
