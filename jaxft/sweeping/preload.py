"""Imports every module that a run needs, once, in the server that a sweep's processes fork from.

    context.set_forkserver_preload(["jaxft.sweeping.preload"])

Imports take half the time of a small run. JAX may be imported before a fork, but no backend may be
created.
"""

import signal

from jaxft.data import tokenizer
from jaxft.run import command  # noqa: F401 imported for the processes that fork from here

tokenizer.tokenizer_class()  # transformers is imported when it is first asked for

# The fork server ignores SIGTERM so that it outlives the workers that are still saving; it exits
# after the last one. `worker.begin` restores the default in a worker.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
