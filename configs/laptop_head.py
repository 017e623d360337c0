"""The classifier alone, on SemEval-14 laptop aspect sentiment.

python -m jaxft.train --config configs/laptop_head.py
"""

from ml_collections import ConfigDict

from configs.base import task_and_method


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; every other field stands in configs/base.py."""
    del arg
    return task_and_method("laptop", "head")
