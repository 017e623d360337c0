"""Settings that several tables share: what five course reports did, and what suits each method.

    from configs.tables.settings import VARIANTS
    config.variant = {name: VARIANTS[name] for name in ("report_d", "tuned")}

The reports fine-tuned with the Hugging Face Trainer. What a report does not say is the Trainer's
default, and its seeds are 0 to 4. The last epoch's weights count, as they do there.
"""

from typing import Any

# transformers.TrainingArguments of 4.57: AdamW without decay, a linear schedule without warmup.
TRAINER = {
    "optim": {"learning_rate": 5e-5, "weight_decay": 0.0, "warmup": 0.0},
    "select": "last",
}
FIVE = (0, 1, 2, 3, 4)


def trainer(optim: dict[str, float] | None = None, **fields: Any) -> dict[str, Any]:
    """A setting on top of the Trainer's defaults."""
    return {**TRAINER, **fields, "optim": {**TRAINER["optim"], **(optim or {})}}


# Learning rates from the ranges of the papers: in full Devlin et al. 2019 and Liu et al. 2019, LoRA
# Hu et al. 2021, adapters Houlsby et al. 2019. For MiniLM those of configs/base.py, found on it.
LARGE = {
    "per_method": {
        "full": {"optim": {"learning_rate": 1e-5}},
        "lora": {"optim": {"learning_rate": 3e-4}},
        "houlsby": {"optim": {"learning_rate": 1e-4}},
    }
}
SMALL = {
    "per_method": {
        "full": {"optim": {"learning_rate": 1e-4}},
        "lora": {"optim": {"learning_rate": 1e-3}},
        "houlsby": {"optim": {"learning_rate": 5e-4}},
    }
}
TUNED = {
    "seeds": FIVE,
    "batch_size": 32,
    "per_task": {
        "restaurant": {"epochs": 8},
        "acl": {"epochs": 12},  # its rare classes come late
        "agnews": {"epochs": 4},
    },
    "per_method": {
        "full": {"optim": {"learning_rate": 3e-5}},
        "lora": {"optim": {"learning_rate": 5e-4}},
        "houlsby": {"optim": {"learning_rate": 3e-4}},
    },
    "per_model": {"roberta-large": LARGE, "minilm": SMALL},
}
# 32 examples are one batch, or four: enough updates take many epochs.
FEW_SHOT = {**TUNED, "batch_size": 8, "eval_batch_size": 64, "epochs": 30, "per_task": {}}

VARIANTS = {
    "report_b": trainer(
        {"learning_rate": 1e-5},
        seeds=FIVE,
        batch_size=64,
        epochs=4,
        per_task={
            "agnews": {
                "epochs": 5,
                "optim": {"learning_rate": 2e-5},
                "per_method": {"houlsby": {"epochs": 6, "optim": {"learning_rate": 5e-5}}},
            }
        },
    ),
    "report_c": trainer(
        seeds=FIVE,
        batch_size=16,
        epochs=3,
        per_method={"houlsby": {"method": {"size": 64, "activation": "relu"}}},
    ),
    "report_d": trainer(
        {"learning_rate": 2e-5, "weight_decay": 0.01},
        seeds=(347913, 594729, 162850, 95842, 43288),
        batch_size=128,
        epochs=3,
    ),
    "report_e": trainer(seeds=(123, 234, 345, 456, 567), batch_size=128, epochs=20),
    "tuned": TUNED,
}
