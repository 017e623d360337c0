"""Imported once by the server that a sweep's processes are forked from: all that a run imports.

    context.set_forkserver_preload(["jaxft.sweeping.preload"])

Half of a small run is imports. JAX may be imported before a fork, as long as no backend is made.
"""

import signal

from jaxft.data import encode  # noqa: F401 imported to be there
from jaxft.models import backbone
from jaxft.run import command  # noqa: F401

# transformers imports its Flax classes when they are first asked for.
backbone.from_config({"model_type": "bert"}, num_labels=2)

# A SIGTERM to the whole group must not take the server away before its processes have saved and
# ended; it ends by itself, behind the last of them. `worker.begin` gives them the default back.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
