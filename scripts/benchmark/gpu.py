"""Training steps on this machine's accelerator: speed, use of it, and memory measured and planned.

    python scripts/benchmark/gpu.py --output docs/results/speed/h100

Each method's step of each model is compiled from shapes and run in a process of its own, with one
run and with five seeds together; no weights and no hub are needed. Writes OUTPUT.json and
OUTPUT.md after each row, so that a lent machine's last minutes are not lost. MFU is the share of
the device's dense bf16 peak that a step's operations take (Chowdhery et al. 2022,
https://arxiv.org/abs/2204.02311), without those of rematerialisation.
"""

import argparse
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import jaxft
from jaxft.io import replace_text, write_json
from jaxft.planning.devices import DEVICES, Gpu
from jaxft.reporting.table import Table, name_entry

Row = dict[str, Any]
HEAD = ("model", "method", "seeds", "steps/s", "tokens/s", "MFU", "planned", "measured", "ratio")


def device_kind() -> str:
    """Returns the driver's name of the first device, from a process that frees it again."""
    show = "import jax; print(jax.devices()[0].device_kind)"
    command = [sys.executable, "-c", show]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def peak_flops(kind: str) -> float | None:
    """Returns the dense bf16 FLOP/s of a GPU by its driver's name; None if that is not known."""
    gpus = (device for device in DEVICES.values() if isinstance(device, Gpu))
    return next((gpu.bf16_flops for gpu in gpus if gpu.description == kind), None)


def measured(options: argparse.Namespace, kind: str, model: str, method: str, seeds: int) -> Row:
    """Returns the figures of one step of a method."""
    settings = {
        "model.dtype": options.dtype,
        "model.attention": options.attention,
        "batch_size": options.batch_size,
        "max_length": options.length,
        "memory.steps": options.steps,
        "memory.seeds": (seeds,),
        "together": "on" if seeds > 1 else "auto",
    }
    if options.attention == "cudnn":
        settings["model.attention_dropout"] = 0.0
    row = jaxft.plan(model, method, **settings).rows[0]
    step_s, flops, peak = row["step_s"], row["flops"], peak_flops(kind)
    tokens = seeds * options.batch_size * options.length
    return {
        "model": model,
        "method": row["label"],
        "seeds": row["seeds"],
        "device": kind,
        "settings": settings,
        "step_s": step_s,
        "steps_per_s": 1 / step_s,
        "tokens_per_s": tokens / step_s,
        "flops": flops,
        "mfu": flops / step_s / peak if peak and flops else None,
        "planned_bytes": row["compiled"]["peak"],
        "measured_bytes": row["measured"]["bytes"],
        "compile_s": row["compile_s"],
    }


def cells(row: Row) -> tuple[str, ...]:
    """The cells of a row in the table."""
    planned, found = row["planned_bytes"], row["measured_bytes"]
    return (
        *(row["model"], row["method"], str(row["seeds"])),
        f"{row['steps_per_s']:.2f}",
        f"{row['tokens_per_s']:,.0f}",
        "" if row["mfu"] is None else f"{100 * row['mfu']:.0f} %",
        f"{planned / 2**20:,.0f} MiB",
        "" if found is None else f"{found / 2**20:,.0f} MiB",
        "" if found is None else f"{found / planned:.3f}",
    )


def table(rows: list[Row]) -> str:
    """Returns the Markdown table."""
    entries = [tuple(map(name_entry, cells(row))) for row in rows]
    return Table(HEAD, entries, left=frozenset({"method"})).markdown()


def main() -> None:
    """Measures every model, method and number of seeds; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="roberta-base,roberta-large")
    parser.add_argument("--methods", default="full,lora,houlsby")
    parser.add_argument("--seeds", default="1,5")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--attention", default="xla")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--within", type=float, default=540, help="seconds; no row starts later")
    parser.add_argument("--output", type=Path, required=True, help="without its ending")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    # One run of every model first: these rows are asked for most.
    work = product(*(text.split(",") for text in (options.seeds, options.models, options.methods)))
    rows, start, kind = list[Row](), time.monotonic(), device_kind()
    for seeds, model, method in work:
        if time.monotonic() - start > options.within:
            print(f"no time left for {model}, {method}, {seeds} together", file=sys.stderr)
            continue
        rows.append(measured(options, kind, model, method, int(seeds)))
        print(" | ".join(cells(rows[-1])), flush=True)
        write_json(options.output.with_suffix(".json"), rows)
        replace_text(options.output.with_suffix(".md"), table(rows) + "\n")


if __name__ == "__main__":
    main()
