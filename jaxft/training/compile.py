"""A function compiled ahead of time for each batch length it meets.

    run_train = ByLength(partial(train_step, forward, optimizer), (state, frozen), key, donate=(0,))
    run_train.compile(mesh, batch_size=32, length=64)
    state, metrics = run_train(state, frozen, batch, key)

Compiling ahead keeps compilation out of the step times, gives XLA's own account of the program's
memory before the first step, and makes the set of shapes explicit.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxft.training.mesh import by_row


class ByLength:
    """`function(*before, batch, *after)`, one executable per batch length.

    Attributes:
      executables: length -> compiled function.
      compile_s: seconds spent compiling.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        before: Sequence[Any],
        after: Sequence[Any] = (),
        *,
        mesh: Mesh,
        batch_size: int,
        donate: tuple[int, ...] = (),
    ) -> None:
        """Compiles nothing yet.

        Args:
          before, after: ShapeDtypeStructs (with shardings) of the arguments around the batch.
          donate: arguments whose buffers the result may reuse.
        """
        self._jitted = jax.jit(function, donate_argnums=donate)
        self._before, self._after = tuple(before), tuple(after)
        self._mesh, self._batch_size = mesh, batch_size
        self.executables: dict[int, Any] = {}
        self.compile_s = 0.0

    def compile(self, length: int) -> Any:
        """Returns the executable for batches of this length, compiled at the first call."""
        if length not in self.executables:
            start = time.perf_counter()
            batch = batch_shapes(self._mesh, self._batch_size, length)
            lowered = self._jitted.lower(*self._before, batch, *self._after)
            self.executables[length] = lowered.compile()
            self.compile_s += time.perf_counter() - start
        return self.executables[length]

    def compile_all(self, lengths: Iterable[int]) -> None:
        """Compiles for all of these lengths."""
        for length in sorted(set(lengths)):
            self.compile(length)

    def largest(self) -> Any:
        """The executable of the longest batches: the one that needs the most memory."""
        return self.executables[max(self.executables)]

    def __call__(self, *args: Any) -> Any:
        batch = args[len(self._before)]
        return self.compile(batch["ids"].shape[1])(*args)


def batch_shapes(mesh: Mesh, batch_size: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch, its rows spread over the mesh."""

    def shape(dims: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(dims, dtype, sharding=by_row(mesh))

    tokens = {name: shape((batch_size, length), jnp.int32) for name in ("ids", "mask", "types")}
    return tokens | {
        "labels": shape((batch_size,), jnp.int32),
        "weights": shape((batch_size,), jnp.float32),
    }
