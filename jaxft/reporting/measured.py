"""What a run measured: beside its plan, part by part, and at each phase.

measured_table(groups)          # planned and measured bytes of each group, in one table
phases_table(groups)            # in use and at most so far, a column for each phase

Of several seeds the first run of a group is shown. Runs of an older jaxft measured neither.
"""

from collections.abc import Sequence

from jaxft.reporting.aggregate import RunGroup, name_of
from jaxft.reporting.costs import alone
from jaxft.reporting.facts import measured_growth, runs_together
from jaxft.reporting.formats import MINUS, human_bytes
from jaxft.reporting.plans import parts, peak
from jaxft.reporting.schema import InUse, Memory, PlanRow
from jaxft.reporting.table import Entry, Table, bytes_entry, name_entry

# Parts of a step that are temporaries of XLA's.
TEMPORARIES = ("gradients", "activations", "workspace", "temporaries")


def pairs(memory: Memory, row: PlanRow) -> dict[str, tuple[int | None, float | None]]:
    """Returns part -> (planned bytes, measured bytes) of a run that trained alone.

    The arrays are those that the device held after loading. Temporaries are measured as the peak of
    the steps above what was in use after loading: on the CPU all else that the process took
    meanwhile is part of them.
    """
    sizes, held = parts(row), memory.get("held", {})
    trained = [x for name, x in held.items() if name != "frozen"]
    frozen = held["frozen"]["params_bytes"] if "frozen" in held else 0
    found = {
        "frozen weights": (sizes.get("frozen"), frozen),
        "trained weights": (sizes.get("trained"), sum(x["params_bytes"] for x in trained)),
        "optimizer": (sizes.get("optimizer"), sum(x["opt_state_bytes"] for x in held.values())),
        "temporaries": (sum(sizes.get(name, 0) for name in TEMPORARIES), temporaries(memory)),
        "step": (peak(row), measured_growth(memory)[0]),
    }
    return {name: both for name, both in found.items() if any(both)}


def temporaries(memory: Memory) -> int | None:
    """The peak of the first epoch's steps above what was in use after loading."""
    phases = memory.get("phases", {})
    if "load" not in phases or "steady" not in phases:
        return None
    return phases["steady"]["peak_bytes_in_use"] - phases["load"]["bytes_in_use"]


def measured_table(groups: Sequence[RunGroup]) -> Table | None:
    """Planned beside measured for each part, of groups whose runs trained alone; else None."""
    lines = []
    for group in groups:
        memory, row = group.first["memory"], alone(group)
        if row is None or not memory.get("held") or runs_together(group.first) > 1:
            continue
        for name, (planned, measured) in pairs(memory, row).items():
            lines.append(
                (
                    name_entry(name_of(group, groups)),
                    name_entry(name),
                    bytes_entry(planned),
                    bytes_entry(measured),
                    above_entry(planned, measured),
                )
            )
    heads = ("method", "part", "planned", "measured", "above")
    return Table(heads, lines, left=frozenset({"part"})) if lines else None


def above_entry(planned: float | None, measured: float | None) -> Entry:
    """`+3.7%`: the measured bytes above the planned ones; a dash where one is missing or 0."""
    if not planned or measured is None:
        return bytes_entry(None)
    percent = 100 * (measured / planned - 1)
    return Entry(f"{percent + 0.0:+.1f}%".replace("-", MINUS), percent)


def phases_table(groups: Sequence[RunGroup]) -> Table | None:
    """`in use / peak so far` at the end of each phase, a row for each group; None if unknown."""
    found = [(name_of(group, groups), group.first["memory"].get("phases", {})) for group in groups]
    names = list(dict.fromkeys(phase for _, phases in found for phase in phases))
    lines = [
        (name_entry(name), *(phase_entry(phases.get(phase)) for phase in names))
        for name, phases in found
        if phases
    ]
    heads = ("method", *(phase.replace("_", " ") for phase in names))
    return Table(heads, lines) if lines else None


def phase_entry(sizes: InUse | None) -> Entry:
    """`512.0 MiB / 2.1 GiB`, sorted by the peak."""
    if sizes is None:
        return bytes_entry(None)
    now, most = sizes["bytes_in_use"], sizes["peak_bytes_in_use"]
    return Entry(f"{human_bytes(now)} / {human_bytes(most)}", most)
