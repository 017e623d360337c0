"""Pfeiffer adapters, on SemEval-14 laptop aspect sentiment.

python -m jaxft.train --config configs/laptop_pfeiffer.py
"""

from ml_collections import ConfigDict

from configs.base import task_and_method


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; every other field stands in configs/base.py."""
    del arg
    return task_and_method("laptop", "pfeiffer")
