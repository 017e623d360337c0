"""What makes a plan quick, as kernels that are not optimized, changes none of its buffers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxft.planning.targets import environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from pathlib import Path
from jaxft.config import config_module
from jaxft.planning import compilers, plan_cache, planner, targets
from jaxft.run import build, plans

config = config_module().get_config()
config.model.name, folder = sys.argv[1:]
config.memory.methods, config.memory.lengths, config.memory.batch_sizes = ("lora",), (32,), (8,)
target = targets.parse("h100")
(_, job), = plans.make_jobs(config, build.read_model(config, ("a", "b")), target)
found, quick = [], dict(compilers.QUICK)
compilers.QUICK.clear()
found.append(planner.plan(job))
compilers.QUICK.update(quick)
plan_cache.begin((), Path(folder))
found += [planner.plan(job), planner.plan(job)]
print(json.dumps([[one["compiled"], one["breakdown"]] for one in found]))
"""


def test_a_quick_compilation_has_the_same_buffers(
    tiny_bert_config: dict[str, Any], tmp_path: Path
) -> None:
    python = os.environ.get("JAXFT_PLAN_PYTHON", sys.executable)
    has_it = "import importlib.util as u, sys; sys.exit(not u.find_spec('jax_cuda12_plugin'))"
    if subprocess.run([python, "-c", has_it], check=False).returncode:
        pytest.skip("jax_cuda12_plugin is not installed; the extra plan-gpu has it")
    (tmp_path / "config.json").write_text(json.dumps(tiny_bert_config))
    done = subprocess.run(
        [python, "-c", SCRIPT, str(tmp_path), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **environment("cuda")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    optimized, quick, kept = json.loads(done.stdout.splitlines()[-1])
    assert optimized == quick == kept
    assert optimized[0]["temporaries"] > 0
    (kernels,) = tmp_path.glob("kernels-*")
    assert kernels.stat().st_size > 0
