"""The fields of a config that came after the first runs, so that those keep their identity.

ADDED["method.unfreeze"]        # "": a run without the field is the same as one with this value
"""

from typing import Any

# Dotted name -> the value that changes nothing.
ADDED: dict[str, Any] = {
    "objective": "auto",
    "metric": "auto",
    "class_weights": "",
    "label_smoothing": 0.0,
    "init_from": "",
    "data.batches": "by_length",
    "model.frozen_dtype": "float32",
    "model.attention": "xla",
    "model.attention_dropout": -1.0,
    "model.scan": "off",
    "model.implementation": "jaxft",
    "model.keep_frozen": False,
    "method.unfreeze": "",
    "method.rank_stabilized": False,
    "method.rank_pattern": [],
    "method.alpha_pattern": [],
    "method.lora_init": "kaiming",
    "method.lr_ratio": 1.0,
    "method.vera_rank": 256,
    "method.vera_seed": 0,
    "method.adapter_scale": 4.0,
    "method.phm_dim": 4,
    "method.adapters": [],
    "method.prefix_length": 30,
}
