"""The memory at each phase of a run, so that a surprise can be placed.

phases = Phases(ResidentGrowth())
phases.load(model.labels, state, frozen)      # counts the arrays, and notes the first phase
phases.note("steady")                         # "load", "first_step", ..., as in PHASES
phases.found["load"]["bytes_in_use"]

Of an accelerator it is what its allocator counts, of the first of this process's devices; on the
CPU the process's resident set, Python and libraries included. Peaks are since the state was made:
the phase in which one rises is the phase that needed it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxft.planning.accounting import bytes_by_partition
from jaxft.planning.compiled import ResidentGrowth, in_use
from jaxft.training.step import Params, State

# In their order; `steady` is the end of the first epoch's steps.
PHASES = ("load", "first_step", "steady", "evaluation", "save", "end")


class Phases:
    """What is measured in the first run, or the first group of runs, of a command.

    Attributes:
      growth: of the process, until the steps of the first epoch are over.
      held: partition -> bytes of the arrays that a device holds after loading.
      found: phase -> `jaxft.planning.compiled.in_use` the first time that it was over; a phase
        that the system does not measure is left out.
    """

    def __init__(self, growth: ResidentGrowth) -> None:
        self.growth = growth
        self.held: dict[str, dict[str, int]] = {}
        self.found: dict[str, dict[str, int]] = {}

    def load(self, labels: Mapping[str, str], state: State, frozen: Params) -> None:
        """Counts the arrays of a state and of the frozen parameters, the first time."""
        if not self.held:
            self.held = bytes_by_partition(labels, {**state.trained, **frozen}, state.opt_state)
        self.note("load")

    def note(self, phase: str) -> None:
        """Measures at the end of a phase, the first time."""
        if phase == "steady":
            self.growth.note()
        sizes = None if phase in self.found else in_use()
        if sizes:
            self.found[phase] = sizes

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a step that waits for its first result, and notes the phase."""

        def noting(*arguments: Any) -> Any:
            result = step(*arguments)
            if "first_step" not in self.found:
                jax.block_until_ready(result)
                self.note("first_step")
            return result

        return noting
