"""The program of a training step for a GPU that is not here: its kernels, and what they move.

    python scripts/benchmark/gpu_program.py --device h100 --output docs/results/speed/h100_program

Compiles each method's step of each model in bfloat16, with both kinds of attention, and counts its
kernels: those of cuBLAS, of Triton, which may have matrix products as well, and cuDNN's fused
attention. The operations are those of the step before XLA optimizes it; the bytes are what the
kernels of the program read and write, each operand in full. The two times are these divided by the
device's peak rates. No step is faster than the first; caches can make it faster than the second.
Needs the compiler (`jaxft memory --install --target=h100`), and for cuDNN's attention cuDNN. XLA
chooses its kernels by rule here; on the device it times some first.
"""

import argparse
import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

from jaxft.config import config_module
from jaxft.errors import InputError
from jaxft.io import replace_text, write_json
from jaxft.planning import planner, targets
from jaxft.planning.collectives import parse, shape_bytes
from jaxft.planning.compilers import findable
from jaxft.planning.devices import DEVICES, Gpu
from jaxft.planning.targets import Target
from jaxft.reporting.table import Table, name_entry
from jaxft.run import build, plans

Row = dict[str, Any]
HEAD = ("model", "method", "attention", "kernels", "cuBLAS", "Triton", "cuDNN attention")
HEAD += ("TFLOP", "GB", "ms at peak FLOP/s", "ms at peak bandwidth")
TRITON, CUDNN, CUBLAS = "__triton", "__cudnn$fmha", "__cublas"
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}  # no kernel


def job_of(options: argparse.Namespace, target: Target, work: tuple[str, str, str]) -> planner.Job:
    """Returns the job of a model, a method and a kind of attention."""
    model, method, attention = work
    config = config_module().get_config()
    config.model.name, config.model.dtype = model, "bfloat16"
    config.model.attention = attention
    if attention == "cudnn":
        config.model.attention_dropout = 0.0
    config.memory.methods = (method,)
    config.memory.batch_sizes, config.memory.lengths = (options.batch_size,), (options.length,)
    objective, labels = plans.objective_and_labels(config)
    read = build.read_model(config, labels, objective)
    ((_, job),) = plans.make_jobs(config, read, target, objective.name)
    return job


def compiled(job: planner.Job) -> tuple[str, float]:
    """Returns the HLO text of a job's compiled training step, and the step's operations."""
    mesh = planner.make_mesh(**job.mesh, devices=targets.devices_of(job.target))
    model = planner.make_model(job)
    optimizer = planner.make_adamw(job, model)
    program = planner.make_program(job, model, optimizer, mesh)
    flops = planner.flops_of_a_step(job, model, optimizer, program.shapes(job.shape))
    executable = program.compile(job.shape, targets.compiler_options(job.target))
    assert flops is not None  # the present backend counts them
    return executable.as_text(), flops


def kernels(text: str) -> dict[str, int]:
    """Counts what the entry of a program starts on the device, and its bytes, from its HLO text."""
    program = parse(text)
    entry = program.computations[program.entry]
    started = [one for one in entry.values() if one.opcode not in FREE]
    arrays = [entry[name] for one in started for name in one.operands if name in entry] + started
    named = [one.attributes for one in started]
    return {
        "kernels": len(started),
        "cublas": sum(CUBLAS in attributes for attributes in named),
        "triton": sum(TRITON in attributes for attributes in named),
        "cudnn": sum(CUDNN in attributes for attributes in named),
        "bytes": sum(shape_bytes(one.shape) for one in arrays),
    }


def read(job: planner.Job, gpu: Gpu, work: tuple[str, str, str]) -> Row:
    """Returns the row of a program."""
    text, flops = compiled(job)
    found = kernels(text)
    return {
        **dict(zip(("model", "method", "attention"), work, strict=True)),
        **found,
        "flops": flops,
        "flops_s": flops / gpu.bf16_flops,
        "bytes_s": found["bytes"] / gpu.memory_bandwidth,
    }


def cells(row: Row) -> list[str]:
    counts = (row[name] for name in ("kernels", "cublas", "triton", "cudnn"))
    return [
        *(row["model"], row["method"], row["attention"], *map(str, counts)),
        *(f"{row['flops'] / 1e12:.2f}", f"{row['bytes'] / 1e9:.1f}"),
        *(f"{1000 * row['flops_s']:.1f}", f"{1000 * row['bytes_s']:.1f}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="h100")
    parser.add_argument("--models", default="roberta-base,roberta-large")
    parser.add_argument("--methods", default="full,lora,houlsby")
    parser.add_argument("--attentions", default="xla,cudnn")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--output", type=Path, required=True, help="without its ending")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    target, gpu = targets.parse(options.device), DEVICES[options.device]
    asked = (text.split(",") for text in (options.models, options.methods, options.attentions))
    rows = []
    needed = targets.environment(target.platform)
    if needed.items() - os.environ.items():  # JAX reads them when it is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **needed})
    with findable(target.platform):
        for work in product(*asked):
            try:
                rows.append(read(job_of(options, target, work), gpu, work))
            except InputError as err:  # no cuDNN here, say
                print(f"{', '.join(work)}: {err}", file=sys.stderr)
                continue
            print(" | ".join(cells(rows[-1])), flush=True)
            write_json(options.output.with_suffix(".json"), rows)
    left = frozenset({"method", "attention"})
    table = Table(HEAD, [list(map(name_entry, cells(row))) for row in rows], left=left)
    replace_text(options.output.with_suffix(".md"), table.markdown() + "\n")


if __name__ == "__main__":
    main()
