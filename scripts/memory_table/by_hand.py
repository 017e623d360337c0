"""What people compute by hand, to print beside a compiled step's peak. Everything is in bytes.

    formula({"peak": ..., "model": "roberta-base", ...})      # weights, state and activations
    four_times({"parameters": 124645632, ...})                # 1,994,330,112

`formula` counts 4 bytes of each parameter (with NF4 half a byte of each frozen one, although its
embeddings are not quantised), 12 more of each trained one (its gradient and Adam's two
moments), and the activations of Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198), section
4.1, in float32. The paper has s b h (34 + 5 a s / h) bytes a layer in 16 bit: 32 sbh and 4 abs² are
numbers of two bytes, 2 sbh and abs² masks of one. In float32 that is s b h (66 + 9 a s / h). With
rematerialisation of layers only their inputs are kept, 4 s b h (section 5). It does not know which
layers are frozen, nor FFNs of another width than 4 h, nor the head.

`four_times` is the rule that Hugging Face's model memory calculator prints: "When training with
Adam, you can expect roughly 4x the reported results to be used. (1x for the model, 1x for the
gradients, and 2x for the optimizer)", https://huggingface.co/spaces/hf-accelerate/model-memory-usage.
"""

from collections.abc import Mapping
from typing import Any

from cells import METHODS

from jaxft.models.architectures import ARCHITECTURES

BYTES_OF = {"float32": 4.0, "nf4": 0.5}  # of a frozen parameter


def formula(row: Mapping[str, Any]) -> float:
    """Returns the bytes of a cell of the table by the formula."""
    variant = METHODS[row["method"]]
    frozen = BYTES_OF[variant.frozen_dtype] * (row["parameters"] - row["trained"])
    activations = activation_bytes(row, remat=variant.remat == "layer")
    return frozen + (4 + 4 + 8) * row["trained"] + activations


def activation_bytes(row: Mapping[str, Any], *, remat: bool) -> int:
    """Returns the bytes of activations of all layers in float32."""
    layers, hidden, heads = sizes(ARCHITECTURES[row["model"]])
    batch, length = row["batch_size"], row["length"]
    if remat:
        return layers * 4 * length * batch * hidden
    return layers * length * batch * (66 * hidden + 9 * heads * length)


def sizes(architecture: Mapping[str, Any]) -> tuple[int, int, int]:
    """Returns layers, hidden size and heads; DistilBERT's config has names of its own."""
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads")
    if architecture["model_type"] == "distilbert":
        names = ("n_layers", "dim", "n_heads")
    layers, hidden, heads = (architecture[name] for name in names)
    return layers, hidden, heads


def four_times(row: Mapping[str, Any]) -> float:
    """Returns four times the weights in float32: model, gradients and Adam's moments, of all."""
    return 4.0 * 4 * row["parameters"]


def error(estimate: float, peak: float | None) -> float | None:
    """Returns an estimate's error as a share of the compiled peak; None without a peak."""
    return None if peak is None else estimate / peak - 1
