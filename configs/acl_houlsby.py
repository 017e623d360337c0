"""Houlsby adapters, on ACL-ARC citation intent.

python -m jaxft.train --config configs/acl_houlsby.py
"""

from ml_collections import ConfigDict

from configs.base import task_and_method


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; every other field stands in configs/base.py."""
    del arg
    return task_and_method("acl", "houlsby")
