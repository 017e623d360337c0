"""OpenLLaMA-3B in full, with LoRA and with adapters: memory by XLA and by hand.

python -m jaxft.memory --config configs/tables/openllama_3b.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; configs/base.py has every other field."""
    del arg
    config = base.get_config()
    config.model.name = "openlm-research/open_llama_3b"
    config.method.rank = 16
    config.method.targets = ("query", "key", "value")
    config.method.size = 64
    config.data.max_length = 64
    config.batch_size = 1
    # The norm of all gradients needs all of them at once: 13.7 GB in full fine-tuning.
    config.optim.clip = 0.0
    config.memory.targets = ("h100", "a100")
    config.memory.methods = ("full", "lora", "houlsby")
    config.memory.dtypes = ("float32", "bfloat16")
    config.memory.estimates = True
    return config
