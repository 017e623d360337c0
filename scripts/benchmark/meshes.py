"""Compiles steps for devices that are not present, on several meshes, and draws how they scale.

    python scripts/benchmark/meshes.py [--output docs/results/scaling] [--draw_only]

Needs the extras plan-gpu and plan-tpu. Writes the plans as JSON, the tables as Markdown and the
picture; an hour and a half on one core, nearly all of it XLA's. --draw_only uses the
existing plans.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from jaxft.planning.scaling import scaling
from jaxft.reporting.footprint import markdown
from jaxft.reporting.scaling import scaling_markdown, scaling_plot

ROOT = Path(__file__).parents[2]
MEMORY = [sys.executable, "-m", "jaxft.memory", "--config", "configs/restaurant_lora.py"]
MEMORY += ["--config.model.dtype=bfloat16", "--config.data.max_length=128"]
LARGE = ["--config.model.name=roberta-large", "--config.memory.meshes=data,fsdp8,tensor2"]
LARGE += ["--config.memory.methods=full,lora"]

# file -> what is planned: eight examples a device, or one of the model of three billion
PLANS = {
    "h100x8": [*LARGE, "--target=h100:8", "--config.batch_size=64"],
    "v5e_4x4": [*LARGE, "--target=v5e:4x4", "--config.batch_size=128"],
    "openllama_v5e_2x4": [
        "--config.model.name=openlm-research/open_llama_3b",
        "--config.memory.methods=lora",
        "--target=v5e:2x4",
        "--config.batch_size=8",
        "--config.mesh.fsdp=8",
    ],
}
# line of the picture -> (file, method, the axis of all devices)
LINES = {
    "H100, data, full": ("h100x8", "full", "data"),
    "H100, data, LoRA": ("h100x8", "lora", "data"),
    "H100, fsdp, full": ("h100x8", "full", "fsdp"),
    "H100, fsdp, LoRA": ("h100x8", "lora", "fsdp"),
    "v5e, data, full": ("v5e_4x4", "full", "data"),
    "v5e, data, LoRA": ("v5e_4x4", "lora", "data"),
}


def row_of(rows: list[dict[str, Any]], method: str, axis: str) -> dict[str, Any]:
    """The plan of a method with all devices along one axis."""
    return next(r for r in rows if r["method"] == method and r["mesh"][axis] == r["devices"])


def main() -> None:
    """Compiles what is asked for, then writes tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "scaling")
    parser.add_argument("--draw_only", action="store_true")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    plans = {}
    for name, arguments in PLANS.items():
        file = args.output / f"{name}.json"
        if not args.draw_only:
            subprocess.run([*MEMORY, *arguments, f"--json={file.resolve()}"], cwd=ROOT, check=True)
        plans[name] = json.loads(file.read_text())
    tables = {
        label: scaling(row_of(plans[name], method, axis))
        for label, (name, method, axis) in LINES.items()
    }
    blocks = [markdown(rows) for rows in plans.values()]
    (args.output / "plans.md").write_text("\n\n".join(blocks) + "\n")
    (args.output / "scaling.md").write_text(scaling_markdown(tables) + "\n")
    title = "roberta-large, bfloat16, 8 examples a device x 128 tokens"
    scaling_plot(tables, args.output / "scaling.png", title=title)


if __name__ == "__main__":
    main()
