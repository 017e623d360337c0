"""32 training examples, the test set untouched: report D's third table, and with more updates.

python -m jaxft.sweep --config configs/tables/few_shot.py [--config.model.names=minilm]
"""

from ml_collections import ConfigDict

from configs.tables import grid
from configs.tables.settings import FEW_SHOT, VARIANTS


def get_config(arg: str = "") -> ConfigDict:
    """Returns the grid; report D's three epochs at batch 128 are three updates."""
    del arg
    config = grid.get_config()
    config.model.names = ("bert-base-uncased", "roberta-base", "allenai/scibert_scivocab_uncased")
    config.tasks = ("restaurant_fs", "acl_fs", "agnews_fs")
    config.methods = ("full", "houlsby", "lora")
    config.variant = ConfigDict({"report_d": VARIANTS["report_d"], "tuned": FEW_SHOT})
    config.variants = ("report_d", "tuned")
    return config
