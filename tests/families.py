"""A table of the families that the tests run over, each with config.jsons of a few parameters.

config = tiny("modernbert", num_hidden_layers=3)      # the sizes by BERT's names
model = torch_model(AutoModelForSequenceClassification, config)
"""

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from jaxft.models.backbone import from_config

Config = dict[str, Any]
Batch = dict[str, np.ndarray]

FAMILIES = ("distilbert", "electra", "modernbert", "albert", "mpnet")
HAVE_TYPES = ("bert", "electra", "albert")
HAVE_FLAX = ("distilbert", "electra", "albert")
SIZES: Config = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
# The fields that a family has beside these.
OWN: Mapping[str, Config] = {
    "roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "electra": {"embedding_size": 12},
    "albert": {"embedding_size": 12},
    # Windows of two tokens to either side, and padding by a token in the middle.
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2, "pad_token_id": 3},
}
RENAMED = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    "modernbert": {
        "hidden_dropout_prob": "mlp_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
}


def tiny(family: str, **changes: Any) -> Config:
    """A config.json; `changes` have BERT's names, where the family has such a field."""
    fields = {**SIZES, **OWN.get(family, {}), **changes}
    names = RENAMED.get(family, {})
    return {"model_type": family, **{names.get(name, name): x for name, x in fields.items()}}


def drawn(family: str, seed: int) -> Config:
    """A config.json of random sizes, most of them odd."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 5))
    sizes = {
        "vocab_size": int(rng.integers(20, 200)),
        "hidden_size": heads * 2 * int(rng.integers(1, 8)),
        "num_hidden_layers": int(rng.integers(1, 5)),
        "num_attention_heads": heads,
        "intermediate_size": 2 * int(rng.integers(4, 30)) + 1,
        "max_position_embeddings": int(rng.integers(24, 40)),
    }
    flags = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
    own: Config = {}
    if family == "modernbert":
        own = {flag: bool(rng.integers(2)) for flag in flags}
        own |= {
            "local_attention": int(rng.integers(2, 10)),
            "global_attn_every_n_layers": int(rng.integers(1, 4)),
            "classifier_pooling": ("cls", "mean")[seed % 2],
            "local_rope_theta": (10000.0, 50.0)[seed % 2],
            "hidden_activation": ("gelu", "silu")[seed % 2],
        }
    if family in ("electra", "albert"):
        own = {"embedding_size": int(rng.integers(3, 30))}
    if family == "electra" and seed % 2:
        own = {"embedding_size": sizes["hidden_size"]}
    return tiny(family, **{**sizes, **own})


def batch_of(family: str, config: Config, pad_id: int, lengths: tuple[int, ...]) -> Batch:
    """Rows of random tokens of these lengths, padded to the longest, in two types if there are."""
    rng = np.random.default_rng(0)
    places_L = np.arange(max(lengths))
    mask_BxL = (places_L < np.array(lengths)[:, None]).astype(np.int32)
    ids_BxL = rng.integers(4, config["vocab_size"], mask_BxL.shape)
    types_BxL = (places_L >= 3) * mask_BxL * (family in HAVE_TYPES)
    return {
        "ids": np.where(mask_BxL, ids_BxL, pad_id).astype(np.int32),
        "mask": mask_BxL,
        "types": types_BxL.astype(np.int32),
    }


@cache
def labelled_batch(family: str) -> Batch:
    """Four rows of 8, 5, 3 and 1 tokens of a `tiny` family, with labels and weights."""
    config = tiny(family)
    batch = batch_of(family, config, from_config(config, num_labels=3).pad_id, (8, 5, 3, 1))
    return {**batch, "labels": np.arange(4, dtype=np.int32) % 3, "weights": np.ones(4, np.float32)}


def torch_inputs(family: str, batch: Batch) -> dict[str, Any]:
    """The same as torch's models take it."""
    import torch

    inputs = {"input_ids": torch.tensor(batch["ids"]).long()}
    inputs["attention_mask"] = torch.tensor(batch["mask"])
    if family in HAVE_TYPES:
        inputs["token_type_ids"] = torch.tensor(batch["types"]).long()
    return inputs


def torch_logits(model: Any, batch: Batch, family: str = "bert") -> np.ndarray:
    """torch's logits of a batch, float32; a BERT and its like take token types."""
    import torch

    with torch.no_grad():
        return model(**torch_inputs(family, batch)).logits.float().numpy()


def torch_model(auto_class: Any, config: Config) -> Any:
    """A random torch model for three labels in which no leaf is zero or one throughout."""
    import torch
    from transformers import AutoConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    fields = {name: x for name, x in config.items() if name != "model_type"}
    hf_config = AutoConfig.for_model(config["model_type"], **fields, num_labels=3)
    with warnings.catch_warnings():
        # Importing ModernBERT makes torch 2.9 warn about functions of its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = auto_class.from_config(hf_config).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn(x.shape) * 0.1)
    return model


def assert_same_gradients(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares the gradients of each leaf, to 1e-5 of its largest.

    A key's bias adds the same to all scores of a query, so its gradient is 0 but for rounding. That
    differs where the last layer computes the first tokens alone.
    """
    assert found.keys() == wanted.keys()
    largest = max(float(np.abs(x).max()) for x in wanted.values())
    for path, x in wanted.items():
        if path.endswith("/key/bias"):
            assert (
                max(float(np.abs(grads[path]).max()) for grads in (found, wanted)) < 1e-7 * largest
            )
            continue
        least = 1e-5 * float(np.abs(x).max())
        np.testing.assert_allclose(found[path], x, atol=least, rtol=1e-5, err_msg=path)
