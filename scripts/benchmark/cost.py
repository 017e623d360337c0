"""What one training step of each method costs, from its compiled program; nothing is trained.

    python scripts/benchmark/cost.py --config configs/acl_lora.py --config.model.name=minilm \
        --length 128 --output runs/cost.json

Prints a Markdown table, FLOPs and bytes with their ratio to full fine-tuning, and writes the same
as JSON. Only shapes are used: the figures do not depend on the weights or on the machine's load.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from jaxft import cli, wiring
from jaxft.memory.accounting import bytes_by_partition
from jaxft.memory.compiled import compiled_bytes, flops
from jaxft.models import backbone as backbones
from jaxft.models import hub
from jaxft.peft.methods import METHODS
from jaxft.training import mesh
from jaxft.training.compile import ByLength
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import count
from jaxft.training.state import build_model, run_keys, state_shapes
from jaxft.training.step import train_step

NUM_LABELS = 6


def cost(config: ConfigDict, method: str, length: int) -> dict[str, Any]:
    """Compiles a method's step and returns what XLA and the accounting say of it."""
    directory = hub.locate(config.model.name)
    backbone = backbones.load(directory, NUM_LABELS, config.model.dtype, config.model.remat)
    model = build_model(backbone, [], method, wiring.method_options(config))
    schedule = make_schedule("constant", 1e-3, total_steps=1, warmup=0.0)
    optimizer = make_optimizer(model.labels, schedule, weight_decay=0.01, clip=1.0, accumulate=1)
    devices = mesh.make_mesh(1)
    shapes, frozen = state_shapes(model, optimizer, devices)
    key = jax.device_put(run_keys(0)[1], mesh.replicated(devices))
    step = ByLength(
        partial(train_step, model.forward, optimizer),
        before=(shapes, frozen),
        after=(key,),
        mesh=devices,
        batch_size=config.batch_size,
        donate=(0,),
    )
    executable = step.compile(length)
    table = bytes_by_partition(model.labels, model.shapes, shapes.opt_state)
    return {
        "method": method,
        "trained": count(model.shapes, model.labels)["trained"],
        "flops": flops(executable),
        "optimizer_bytes": sum(row["opt_state_bytes"] for row in table.values()),
        "temporaries": compiled_bytes(executable)["temporaries"],
        "compile_s": step.compile_s,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table; the first one is what the ratios are to."""
    lines = [
        "| method | trained | GFLOP | of full | optimizer MiB | of full | temporaries MiB "
        "| of full |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [row["method"], f"{row['trained']:,}"]
        for name, unit in (("flops", 1e9), ("optimizer_bytes", 2**20), ("temporaries", 2**20)):
            cells += [f"{row[name] / unit:,.1f}", f"{row[name] / rows[0][name]:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Compiles every method and prints the table."""
    values = flags.FlagValues()
    flags.DEFINE_integer("length", 128, "padded length", flag_values=values)
    flags.DEFINE_string("output", "", "JSON file to write", flag_values=values)
    config = cli.parse_config_command(argv, values)
    rows = []
    for method in METHODS:
        rows.append(cost(config, method, values.length))
        print(f"{method}: {rows[-1]['compile_s']:.0f} s to compile", file=sys.stderr)
    print(markdown(rows))
    if values.output:
        Path(values.output).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
