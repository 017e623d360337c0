"""Fine-tune Flax BERT and RoBERTa encoders for text classification, in full or by PEFT.

python -m jaxft.train --config configs/acl_lora.py
"""

import os
import sys
from itertools import pairwise

__version__ = "0.1.0"


def is_command(argv: list[str]) -> bool:
    """Whether Python was started as `python -m jaxft.COMMAND`."""
    return any(flag == "-m" and name.startswith("jaxft.") for flag, name in pairwise(argv))


# transformers imports torch wherever it is installed, most of a command's start, and a command has
# no use for it. It asks this variable once, when it is imported itself. Who imports jaxft into a
# program of their own keeps transformers as it is.
if is_command(sys.orig_argv):
    os.environ.setdefault("USE_TORCH", "0")
