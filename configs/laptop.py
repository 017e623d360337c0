"""SemEval-2014 laptop aspect sentiment, with any method.

python -m jaxft.train --config configs/laptop.py:houlsby
"""

from ml_collections import ConfigDict

from configs.base import defaults_of


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a method, LoRA by default; configs/base.py has every field."""
    return defaults_of("laptop_sup", arg or "lora")
