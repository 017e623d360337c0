"""Fine-tune BERT-family encoders in JAX for text classification, in full or by PEFT.

    import jaxft

    run = jaxft.finetune(task="acl_sup", model="minilm", method="lora")
    jaxft.load(run.directory).predict(["We use the parser of Collins (1999)."])
    print(jaxft.plan("roberta-base", method="lora", target="h100:8").table())

The same as commands: `python -m jaxft.train --config configs/acl_lora.py`, or `jaxft train ...`.
"""

import os
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.api import Plan, Run, compare, finetune, finetune_many, load, plan, run_grid
    from jaxft.errors import InputError
    from jaxft.run.classifier import Classifier
    from jaxft.training.objectives import MultiLabelPrediction, Prediction, ValuePrediction

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "InputError",
    "MultiLabelPrediction",
    "Plan",
    "Prediction",
    "Run",
    "ValuePrediction",
    "__version__",
    "compare",
    "finetune",
    "finetune_many",
    "load",
    "plan",
    "run_grid",
]

# Imported when they are first used: `import jaxft` is fast and does not import JAX.
MODULES = {
    "Classifier": "jaxft.run.classifier",
    "MultiLabelPrediction": "jaxft.training.objectives",
    "Prediction": "jaxft.training.objectives",
    "ValuePrediction": "jaxft.training.objectives",
    "InputError": "jaxft.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(MODULES.get(name, "jaxft.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def is_command(argv: list[str]) -> bool:
    """Whether Python was started as `python -m jaxft`, `python -m jaxft.COMMAND` or `jaxft`."""
    by_name = bool(argv[1:2]) and os.path.basename(argv[1]) == "jaxft"
    return by_name or any(
        flag == "-m" and (name == "jaxft" or name.startswith("jaxft."))
        for flag, name in pairwise(argv)
    )


# transformers imports torch if it is installed, which takes most of a command's start-up time and
# which no command needs. It reads this variable once, when it is imported. In a program that
# imports jaxft, transformers is left as it is.
if is_command(sys.orig_argv):
    os.environ.setdefault("USE_TORCH", "0")
    # Without torch, version 5 says at each start that models will not be available.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
