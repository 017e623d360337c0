"""Rows of memory plans: their groups, and the figures that tables and bars derive from a row.

    for group in groups(rows):              # rows that share target, model, dtype, batch, length
        title_of(group), [saved_share(row, group) for row in group]

Savings are against full fine-tuning of the same number of seeds in the same group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.reporting.formats import human_bytes
from jaxft.reporting.schema import PlanRow

# ---------------------------------------------------------------- groups


def group_key(row: PlanRow) -> tuple[Any, ...]:
    """The conditions that the rows of a group share; for a fit the limit instead of the batch."""
    fit = row.get("fit")
    batch, limit = (None, fit["limit"]) if fit else (row["batch_size"], None)
    mesh = tuple(row["mesh"].values())
    compute = row["dtype"], row.get("attention", "xla"), row.get("scan", "off")
    length = row["length"], row.get("packed", False)
    return row["target"], mesh, row["model"], *compute, batch, *length, limit


def groups(rows: Sequence[PlanRow]) -> list[list[PlanRow]]:
    """The rows by group, both in their given order."""
    found: dict[tuple[Any, ...], list[PlanRow]] = {}
    for row in rows:
        found.setdefault(group_key(row), []).append(row)
    return list(found.values())


def title_of(group: Sequence[PlanRow]) -> str:
    """`roberta-base, float32, h100:8 (8 devices of 80.0 GiB; fsdp 8), batch 32 x 128 tokens`."""
    row = group[0]
    devices = "1 device" if row["devices"] == 1 else f"{row['devices']} devices"
    memory = "" if row["memory_bytes"] is None else f" of {human_bytes(row['memory_bytes'])}"
    memory += "" if row["devices"] == 1 else f"; {mesh_name(row['mesh'])}"
    fit = row.get("fit")
    batch = f"batch {row['batch_size']:,} x {row['length']} tokens"
    if fit:
        batch = f"{row['length']} tokens, limit {human_bytes(fit['limit'])}"
    target = f"{row['target']} ({devices}{memory})"
    return ", ".join((row["model"], row["dtype"], *computed_otherwise(row), target, batch))


def computed_otherwise(row: PlanRow) -> list[str]:
    """`["attention cudnn", "scan on"]`; those that have their default are left out."""
    given = (("attention", row.get("attention", "xla"), "xla"), ("scan", row.get("scan"), "off"))
    return [f"{name} {value}" for name, value, default in given if value not in (default, None)]


def mesh_name(mesh: Mapping[str, int]) -> str:
    """`data 2 x fsdp 4`; axes of size 1 are left out."""
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "data 1"


def remats_vary(rows: Sequence[PlanRow]) -> bool:
    """Whether the rows have several remat policies."""
    return len({row["remat"] for row in rows}) > 1


def frozen_of(row: PlanRow) -> str:
    """The dtype that what is frozen is stored in; float32 for an old plan, which does not say."""
    return row.get("frozen_dtype", "float32")


def has_other_frozen(rows: Sequence[PlanRow]) -> bool:
    """Whether a row stores what is frozen in another dtype than float32."""
    return any(frozen_of(row) != "float32" for row in rows)


def batches_vary(rows: Sequence[PlanRow]) -> bool:
    """Whether the rows have several batch sizes."""
    return len({row["batch_size"] for row in rows}) > 1


def seeds_of(row: PlanRow) -> int:
    """How many seeds train together; a row of an old plan, which does not say, has one."""
    return row.get("seeds", 1)


def has_several_seeds(rows: Sequence[PlanRow]) -> bool:
    """Whether a row has several seeds that train together."""
    return any(seeds_of(row) > 1 for row in rows)


def full_row(row: PlanRow, rows: Sequence[PlanRow]) -> PlanRow | None:
    """Full fine-tuning of the same number of seeds in the row's group.

    The one without remat; if there is none, the one with the row's own remat.
    """
    key = group_key(row), seeds_of(row)
    fulls = [r for r in rows if r["method"] == "full" and (group_key(r), seeds_of(r)) == key]
    by_remat = {r["remat"]: r for r in reversed(fulls)}
    return by_remat.get("none") or by_remat.get(row["remat"])


# ---------------------------------------------------------------- figures of a row


def peak(row: PlanRow) -> int | None:
    """XLA's peak on one device; None if the compiler refused the program as too large."""
    compiled = row.get("compiled")
    return compiled["peak"] if compiled else None


def parts(row: PlanRow) -> dict[str, int]:
    """The peak by purpose; `other` is added to the workspace or to the undivided temporaries."""
    sizes = dict(row.get("breakdown") or {})
    other = sizes.pop("other", 0)
    if sizes:
        sizes["temporaries" if "temporaries" in sizes else "workspace"] += other
    return sizes


def saved_share(row: PlanRow, rows: Sequence[PlanRow]) -> float | None:
    """Returns the saving of the row's peak as a share of full's; below 0 if it is more.

    None if there is no full row in the row's group, or none at the same batch.

    Args:
      rows: where to look for full (`full_row`).
    """
    full = full_row(row, rows)
    # The largest batches of two methods differ, and their peaks with them.
    if full is None or full["batch_size"] != row["batch_size"]:
        return None
    part = ratio(peak(row), peak(full))
    return None if part is None else 1 - part


def to_one_seed(row: PlanRow, group: Sequence[PlanRow]) -> float | None:
    """The peak of several seeds by that of one; None for one, and if one is not in the group."""
    if seeds_of(row) == 1:
        return None
    key = row["label"], row["remat"], frozen_of(row)
    same = [r for r in group if (r["label"], r["remat"], frozen_of(r)) == key]
    one = next((r for r in same if seeds_of(r) == 1), None)
    return None if one is None else ratio(peak(row), peak(one))


def fit_to_full(row: PlanRow, rows: Sequence[PlanRow]) -> float | None:
    """The row's largest batch by full's; None without a full row, or if not even that fits."""
    full = full_row(row, rows)
    if full is None:
        return None
    return ratio(row["fit"]["largest_batch"], full["fit"]["largest_batch"])


def planned(row: PlanRow, kind: str) -> int:
    """Bytes by accounting, over all partitions: one of `params_bytes`, `grad_bytes`, ..."""
    partitions: Mapping[str, Mapping[str, Any]] = row["partitions"]
    return sum(sizes[kind] for sizes in partitions.values())


def moved(row: PlanRow, *kinds: str) -> int | None:
    """Returns the bytes that a device sends in collectives of these kinds; None if none."""
    return sum(row["moved"][kind] for kind in kinds) or None


def measured(row: PlanRow) -> int | None:
    """Returns the measured bytes of a plan's steps."""
    found = row.get("measured")
    return found["bytes"] if found else None


def measured_error(row: PlanRow) -> float | None:
    """Returns the excess of the measured bytes over the compiled ones, as a share of these."""
    part = ratio(measured(row), peak(row))
    return None if part is None else part - 1


def does_not_fit(row: PlanRow) -> bool:
    """Whether the step needs more than a device has; in a fit, more than the limit at any batch."""
    fit = row.get("fit")
    if fit and fit["largest_batch"] == 0:
        return True
    size, memory = peak(row), row["memory_bytes"]
    return size is None or (memory is not None and size > memory)


def unit_of(rows: Sequence[PlanRow]) -> str:
    """The unit in which all rows can be read: GiB if one needs tens of them."""
    largest = max((peak(row) or 0 for row in rows), default=0)
    return "GiB" if largest >= 10 * 2**30 else "MiB"


def ratio(part: float | None, whole: float | None) -> float | None:
    """`part` by `whole`; None if one is missing or `whole` is 0."""
    return part / whole if part is not None and whole else None
