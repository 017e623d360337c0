"""Houlsby adapters and LoRA on RoBERTa, base and large: the course reports' second table.

python -m jaxft.sweep --config configs/tables/course_adapters.py [--config.model.names=minilm]
"""

from ml_collections import ConfigDict

from configs.tables import grid
from configs.tables.settings import VARIANTS


def get_config(arg: str = "") -> ConfigDict:
    """Returns the grid: as reports D and E had it, and tuned; B and C by --config.variants."""
    del arg
    config = grid.get_config()
    config.model.names = ("roberta-base", "roberta-large")
    config.tasks = ("restaurant", "acl", "agnews")
    config.methods = ("houlsby", "lora")
    config.variant = ConfigDict(VARIANTS)
    config.variants = ("report_d", "report_e", "tuned")
    return config
