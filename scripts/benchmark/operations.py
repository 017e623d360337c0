"""Where the time of a training step goes on the CPU: its operations, by phase and by kind.

    python scripts/benchmark/operations.py --methods lora,houlsby,full --output runs/operations

MiniLM, 32 texts of `--length` tokens, float32. JAX's profiler times each operation of `--steps`
steps; XLA's metadata say whether it is of the forward pass, the backward pass or the update. An
operation's time is that of the thread which started it, and two operations may run at a time, so
the sum may exceed the step. The products of which the kernels' gradients consist run in other
threads: of them only the start is counted, and what runs beside them takes longer. Writes
operations.json and operations.md. Run it on an idle machine.
"""

import argparse
import re
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
from encoders import Stepper

from jaxft.io import write_json
from jaxft.reporting.table import Table, name_entry
from jaxft.run.process import keep_heap

ROWS = 32
PHASES = ("forward", "backward", "update")
# Kind -> names of XLA's instructions; the first that matches counts, and the last one takes any.
KINDS = {
    "matrix products": r"ynn_fusion|dot|convolution",
    "lookups of rows": r".*(gather|scatter|dynamic)",
    "copies": r".*(copy|transpose)",
    "reductions": r".*reduce",
    "elementwise": r"",
}
LOOPS = re.compile(r"(while|call|conditional)(\.\d+)?")  # whose time is that of what is inside
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name=\"([^\"]*)\"", re.MULTILINE)


def phase_of(op_name: str) -> str:
    """The phase of an operation, by the transformations of JAX that it came from."""
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else "update"


def kind_of(instruction: str, op_name: str) -> str:
    """The kind of an operation, by XLA's and by JAX's name for it."""
    if re.search(r"/reduce_\w+$", op_name):  # XLA calls sums and products of YNNPACK the same
        return "reductions"
    return next(kind for kind, names in KINDS.items() if re.match(names, instruction))


def milliseconds(stepper: Stepper, steps: int, folder: Path) -> Counter[tuple[str, str]]:
    """Returns (phase, kind) -> milliseconds a step, from a trace of some steps."""
    with jax.profiler.trace(str(folder)):
        for _ in range(steps):
            stepper.step()
    program = stepper.program.largest().as_text()
    kinds = {
        name: (phase_of(op_name), kind_of(name, op_name))
        for name, op_name in INSTRUCTION.findall(program)
    }
    found: Counter[tuple[str, str]] = Counter()
    (file,) = folder.rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for event in (event for line in plane.lines for event in line.events):
            if event.name in kinds and not LOOPS.fullmatch(event.name):
                found[kinds[event.name]] += event.duration_ns / 1e6 / steps
    return found


def measured(method: str, length: int, steps: int) -> dict[str, Any]:
    """Returns the seconds of a step that is not traced, and the operations of one that is."""
    stepper = Stepper("jaxft", method, ROWS, length)
    step_ms = 1e3 * statistics.median(stepper.step() for _ in range(steps))
    with tempfile.TemporaryDirectory() as folder:
        found = milliseconds(stepper, steps, Path(folder))
    operations = [
        {"phase": phase, "kind": kind, "ms": found[phase, kind]}
        for phase in PHASES
        for kind in KINDS
        if found[phase, kind]
    ]
    return {"method": method, "length": length, "step_ms": step_ms, "operations": operations}


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the Markdown table: for each kind and phase its milliseconds and its share."""
    heads = ["operations", "phase", *(f"{row['method']}, ms" for row in rows)]
    by_row = [{(one["phase"], one["kind"]): one["ms"] for one in row["operations"]} for row in rows]
    lines = [["a step, not traced", "", *(f"{row['step_ms']:,.0f}" for row in rows)]]
    for kind in KINDS:
        for phase in PHASES:
            cells = [
                f"{found[phase, kind]:,.0f} ({found[phase, kind] / sum(found.values()):.0%})"
                if (phase, kind) in found
                else ""
                for found in by_row
            ]
            if any(cells):
                lines.append([kind, phase, *cells])
    entries = [list(map(name_entry, cells)) for cells in lines]
    return Table(heads, entries, left=frozenset({"phase"})).markdown()


def main() -> None:
    keep_heap()  # as jaxft.train does
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="lora,houlsby,full", help="with commas")
    parser.add_argument("--length", type=int, default=32, help="tokens of a text")
    parser.add_argument("--steps", type=int, default=20, help="that are traced")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = [measured(name, options.length, options.steps) for name in options.methods.split(",")]
    write_json(options.output / "operations.json", rows)
    text = table(rows)
    (options.output / "operations.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
