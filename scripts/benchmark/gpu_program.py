"""The program of a training step for a GPU that is not here: its kernels, and what they move.

    python scripts/benchmark/gpu_program.py --device h100 --output docs/results/speed/h100_program

Compiles each method's step of each model in bfloat16, with both kinds of attention, and counts its
kernels: matrix products of cuBLAS, of Triton, and the fused attention of cuDNN. The operations and
the bytes of memory traffic are XLA's own count. The two times are these divided by the device's
peak rates: no step can be faster than either. Needs the compiler (`jaxft memory --install
--target=h100`). XLA chooses its kernels by rule here; on the device it times some of them first.
"""

import argparse
import re
from itertools import product
from pathlib import Path
from typing import Any

from jaxft.config import config_module
from jaxft.io import replace_text, write_json
from jaxft.planning import planner, targets
from jaxft.planning.compilers import findable
from jaxft.planning.devices import DEVICES, Gpu
from jaxft.planning.targets import Target
from jaxft.reporting.table import Table, name_entry
from jaxft.run import build, plans

Row = dict[str, Any]
HEAD = ("model", "method", "attention", "kernels", "cuBLAS", "Triton", "cuDNN attention")
HEAD += ("TFLOP", "GB", "ms at peak FLOP/s", "ms at peak bandwidth")
TRITON, CUDNN, CUBLAS = "__triton", "__cudnn$fmha", "__cublas"
# An operation of a computation: `%name = f32[8]{0} fusion(...)`. These take no time on the device.
OPERATION = re.compile(r"^ *(?:ROOT )?%?[\w.-]+ = .*? ([\w-]+)\(")
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}


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


def compiled(job: planner.Job) -> Any:
    """Returns the executable of a job's training step."""
    mesh = planner.make_mesh(**job.mesh, devices=targets.devices_of(job.target))
    model = planner.make_model(job)
    program = planner.make_program(job, model, planner.make_adamw(job, model), mesh)
    return program.compile(job.shape, targets.compiler_options(job.target))


def kernels(text: str) -> dict[str, int]:
    """Counts what the entry of a program starts on the device, from its HLO text."""
    entry = text[text.index("\nENTRY ") :].partition("\n}")[0].splitlines()[1:]
    started = [line for line in entry if operation(line) not in FREE]
    return {
        "kernels": len(started),
        "cublas": sum(CUBLAS in line for line in started),
        "triton": sum(TRITON in line for line in started),
        "attention": sum(CUDNN in line for line in started),
    }


def operation(line: str) -> str:
    """The name of a line's operation; that of no operation counts as free."""
    found = OPERATION.match(line)
    return found[1] if found else "parameter"


def read(job: planner.Job, gpu: Gpu, work: tuple[str, str, str]) -> Row:
    """Returns the row of a program."""
    executable = compiled(job)
    costs = executable.cost_analysis()
    flops, moved = costs["flops"], costs["bytes accessed"]
    return {
        **dict(zip(("model", "method", "attention"), work, strict=True)),
        **kernels(executable.as_text()),
        "flops": flops,
        "bytes": moved,
        "flops_s": flops / gpu.bf16_flops,
        "bytes_s": moved / gpu.memory_bandwidth,
    }


def cells(row: Row) -> list[str]:
    counts = (row[name] for name in ("kernels", "cublas", "triton", "attention"))
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
    with findable(target.platform):
        for work in product(*asked):
            rows.append(read(job_of(options, target, work), gpu, work))
            print(" | ".join(cells(rows[-1])), flush=True)
            write_json(options.output.with_suffix(".json"), rows)
    left = frozenset({"method", "attention"})
    table = Table(HEAD, [list(map(name_entry, cells(row))) for row in rows], left=left)
    replace_text(options.output.with_suffix(".md"), table.markdown() + "\n")


if __name__ == "__main__":
    main()
