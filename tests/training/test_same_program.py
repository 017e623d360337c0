"""The compiled step is the same program in every process, so that a compilation cache serves it."""

import os
import subprocess
import sys

LOWERED = """
import hashlib, jax, jax.numpy as jnp
from jaxft.training.optimizer import make_optimizer

labels = {"a": "head", "b": "head:no_decay", "c": "adapter", "d": "adapter:no_decay", "e": "other"}
params = {path: jnp.ones(1 + i) for i, path in enumerate(labels)}
optimizer = make_optimizer(
    labels, lambda step: 1e-3, weight_decay=0.01, clip=1.0, accumulate=2, per_epoch=5
)
lowered = jax.jit(optimizer.update).lower(params, optimizer.init(params), params)
print(hashlib.sha256(lowered.as_text().encode()).hexdigest())
"""


def test_the_optimizer_is_one_program_whatever_pythons_hash_seed() -> None:
    def digest(seed: str) -> str:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": seed}
        return subprocess.check_output([sys.executable, "-c", LOWERED], env=environment, text=True)

    assert digest("1") == digest("2")
