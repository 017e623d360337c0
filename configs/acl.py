"""ACL-ARC citation intent, with any method.

python -m jaxft.train --config configs/acl.py:houlsby
"""

from ml_collections import ConfigDict

from configs.base import defaults_of


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of a method, LoRA by default; configs/base.py has every field."""
    return defaults_of("acl_sup", arg or "lora")
