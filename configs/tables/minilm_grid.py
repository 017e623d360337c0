"""Six methods on three tasks, on the backbone that needs no model hub: 54 runs.

python -m jaxft.sweep --config configs/tables/minilm_grid.py
"""

from ml_collections import ConfigDict

from configs.tables import grid


def get_config(arg: str = "") -> ConfigDict:
    """Returns the grid; learning rates and epochs are those of configs/base.py."""
    del arg
    config = grid.get_config()
    config.model.names = ("minilm",)
    config.tasks = ("restaurant", "acl", "agnews")
    config.methods = ("full", "head", "bitfit", "lora", "houlsby", "pfeiffer")
    config.seeds = (0, 1, 2)
    return config
