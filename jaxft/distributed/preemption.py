"""SIGTERM in a run of several processes: all of them stop after the same step.

if preempted_before(step=0):       # a signal came between two runs
...
if preempted(step=1):              # asked by every process after every step
...
"""

from jax.experimental import multihost_utils

from jaxft.distributed import processes

_last_asked = [0]  # JAX's own count begins there


def preempted(step: int) -> bool:
    """Whether to save and stop after this step. All processes must ask after every step.

    JAX's runtime catches SIGTERM on any process and makes all of them stop at the same step. A
    Python handler for SIGTERM, installed after `processes.start`, would replace JAX's.
    """
    if processes.count() == 1:
        return False
    _last_asked[:] = [step]
    return multihost_utils.reached_preemption_sync_point(step)


def preempted_before(step: int) -> bool:
    """Whether a signal came after the last step that was asked about. All processes must ask.

    JAX stops at the step after that one. If steps are counted anew, from `step` on, because another
    run begins, no later step may have that number, and the signal would be lost.
    """
    if processes.count() == 1:
        return False
    came = preempted(_last_asked[0] + 1)
    return preempted(step) or came
