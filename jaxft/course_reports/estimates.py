"""Training memory by hand: the formulas people write down, to print next to XLA's figures.

    hand_estimates()[0]
    # {"source": "course report A", "full_bytes": 48000000000, "peft_bytes": 24060000000, ...}

The case is OpenLLaMA-3B as five course reports estimated it, in full and by PEFT. Everything is in
bytes, GB are 1e9 of them. `DIFFERENCES` says why a compiled step needs something else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

GB = 1_000_000_000
TITLE = "hand estimates of OpenLLaMA-3B; GB, 1e9 bytes"

# OpenLLaMA-3B as in the reports.
HIDDEN, HEADS, LAYERS = 3200, 32, 26
# The reports round `transformer_parameters(HIDDEN, LAYERS)`, 3,194,880,000, to this.
PARAMETERS = 3 * GB
# The reports' only length, and one sequence of it.
LENGTH = 64

# Of OpenLLaMA-3B; a gated FFN has three matrices.
FFN, VOCABULARY = 8640, 32_000

DIFFERENCES = (
    "Gradients of frozen weights are never computed; course report A keeps all of them.",
    "With donated buffers XLA updates parameters and moments in place, and, unless a global norm is"
    " clipped, need not hold all gradients at once; the estimates add a full copy of them.",
    "Activations are what the backward pass of the fused program reads, at its own precision; with"
    " frozen weights it reads fewer of them, and no formula here knows that.",
    f"Llama's FFN is gated, with three matrices of {HIDDEN} x {FFN}, and a vocabulary of"
    f" {VOCABULARY} is embedded and predicted: 3,426,473,600 parameters, not 12h²l.",
)


def transformer_parameters(hidden: int, layers: int) -> int:
    """Returns 12 h² l: 4h² of attention and 8h² of an FFN four times as wide, in every layer.

    Kaplan et al. 2020 (https://arxiv.org/abs/2001.08361), section 2.1: no embeddings, biases or
    norms.
    """
    return 12 * hidden**2 * layers


def llama_parameters(hidden: int, layers: int, ffn: int, vocabulary: int) -> int:
    """Returns the parameters of a Llama whose heads share no keys or values.

    Touvron et al. 2023 (https://arxiv.org/abs/2302.13971): a gated FFN, scale-only norms, no
    biases, a separate output layer.
    """
    layer = 4 * hidden**2 + 3 * hidden * ffn + 2 * hidden
    return 2 * vocabulary * hidden + layers * layer + hidden


def state_bytes(*, parameters: int, gradients: int, adam: int, itemsize: int) -> int:
    """Returns bytes of parameters, gradients and Adam's two moments; "4p + 4p + 8p" in float32.

    Course reports A to E. How many of each a method keeps is where the reports differ.

    Args:
      parameters: how many are held.
      gradients: how many are held.
      adam: of how many parameters Adam keeps moments.
      itemsize: bytes of a number: 4 in float32, 2 in float16. The reports' float16 has neither a
        float32 copy of the weights nor float32 moments, which mixed-precision training keeps.
    """
    return itemsize * (parameters + gradients + 2 * adam)


def full_bytes(parameters: int, itemsize: int) -> int:
    """Returns bytes of `state_bytes` when all is trained: 16p in float32, 8p in float16."""
    return state_bytes(
        parameters=parameters, gradients=parameters, adam=parameters, itemsize=itemsize
    )


def lora_share(hidden: int, rank: int, matrices: int) -> float:
    """Returns LoRA's parameters by the backbone's: `matrices` of a layer, 2hr each, by 12h².

    Course report A. The matrices are taken as h x h.
    """
    return matrices * 2 * hidden * rank / transformer_parameters(hidden, layers=1)


def adapter_parameters(hidden: int, size: int, per_layer: int, layers: int) -> int:
    """Returns the parameters of bottleneck adapters: two matrices and two biases each.

    Houlsby et al. 2019 (https://arxiv.org/abs/1902.00751), section 2.1: 2md + d + m.
    """
    return layers * per_layer * (2 * hidden * size + hidden + size)


def adam_shrinks(parameters: int, trained: int) -> int:
    """Returns float32 bytes if PEFT saves only the moments of the frozen weights.

    Course report A: 4p + 4p + 8p · share. It keeps the gradients of the frozen weights, and does
    not count LoRA's own parameters and gradients.
    """
    return state_bytes(parameters=parameters, gradients=parameters, adam=trained, itemsize=4)


def beside_frozen(parameters: int, trained: int, activations: int) -> int:
    """Returns float16 bytes of a frozen model, its activations, and all trained weights with state.

    The reading of course report B that gives its figure: 2p + activations + 8 · trained, where
    the trained parameters are new ones with their own weights, gradients and moments.
    """
    return 2 * parameters + activations + full_bytes(trained, itemsize=2)


def gradients_shrink(parameters: int, trained: int, activations: int) -> int:
    """Returns float16 bytes if gradients and moments are kept of the trained weights alone.

    The reading of course report C that gives its figure: 2p + activations + 6 · trained. The
    trained parameters' own weights, 0.04 GB, are not counted.
    """
    kept = state_bytes(parameters=parameters, gradients=trained, adam=trained, itemsize=2)
    return kept + activations


def activation_bytes(batch: int, length: int, hidden: int, heads: int, layers: int) -> int:
    """Returns bytes of stored activations at 16 bit: s b h (34 + 5as/h) a layer.

    Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198), section 4.1, without tensor
    parallelism. It already counts two bytes a number and one byte for an entry of a dropout mask.
    """
    return layers * length * batch * (34 * hidden + 5 * heads * length)


def selective_recompute_bytes(batch: int, length: int, hidden: int, layers: int) -> int:
    """Returns `activation_bytes` if the attention's core is recomputed: 34 s b h a layer.

    Korthikanti et al. 2022, section 5.
    """
    return layers * 34 * length * batch * hidden


def full_recompute_bytes(batch: int, length: int, hidden: int, layers: int) -> int:
    """Returns `activation_bytes` if only each layer's input is stored: 2 s b h a layer.

    Korthikanti et al. 2022, section 5.
    """
    return layers * 2 * length * batch * hidden


def reported_activation_bytes(length: int, hidden: int, heads: int, layers: int) -> int:
    """Returns 4 (34bh + 5b²a) l as course reports A and E have it, b for the sequence length.

    It is `activation_bytes` of one sequence times 4, though that is bytes already. In float32 it
    would be less than twice, for a mask's entry stays one byte.
    """
    return 4 * activation_bytes(1, length, hidden, heads, layers)


def full_with_activations(parameters: int) -> int:
    """Returns float32 bytes of all trained with `reported_activation_bytes`: 4 (4n + (...)l).

    Course report E writes 4n + (34bh + 5b²a)l. Its 45.44 GB follow if both terms count numbers of
    four bytes, at n = 3e9 and b = 64, and its GB are 2^30 bytes.
    """
    activations = reported_activation_bytes(LENGTH, HIDDEN, HEADS, LAYERS)
    return full_bytes(parameters, itemsize=4) + activations


@dataclass(frozen=True)
class Estimate:
    """One estimate of OpenLLaMA-3B, as its source says it and as its formula gives it.

    Attributes:
      source: who says so.
      formula: as text.
      full: computes the bytes with all trained.
      peft: computes the bytes by PEFT; None if no formula is known to give them.
      quoted_full: bytes as printed there, GB read as 1e9; None if none are.
      quoted_peft: the same by PEFT.
      note: the assumptions, oddities and gaps of the calculation.
    """

    source: str
    formula: str
    full: Callable[[], int]
    peft: Callable[[], int] | None
    quoted_full: int | None
    quoted_peft: int | None
    note: str


_KORTHIKANTI = "Korthikanti et al. 2022, arXiv 2205.05198"
_ACTIVATIONS_ALONE = "Activations alone, one sequence of 64, 16 bit; no figure for this model."
# B and C assume that activations take as much as the parameters.
_ASSUMED = 2 * PARAMETERS
_LORA = round(PARAMETERS * lora_share(HIDDEN, rank=16, matrices=3))
_ADAPTERS = adapter_parameters(hidden=3230, size=64, per_layer=2, layers=24)


def _half_precision_full() -> int:
    return full_bytes(PARAMETERS, itemsize=2) + _ASSUMED


ESTIMATES = (
    Estimate(
        source="course report A",
        formula="4p + 4p + 8p; LoRA 4p + 4p + 8p · h·16·2·3/12h²",
        full=partial(full_bytes, PARAMETERS, itemsize=4),
        peft=partial(adam_shrinks, PARAMETERS, _LORA),
        quoted_full=48 * GB,
        quoted_peft=round(24.06 * GB),
        note="Keeps the gradients of frozen weights; said as a saving of 23.94 GB.",
    ),
    Estimate(
        source="course report A, activations",
        formula="4 (34bh + 5b²a) l",
        full=partial(reported_activation_bytes, LENGTH, HIDDEN, HEADS, LAYERS),
        peft=None,
        quoted_full=round(0.792 * GB),
        quoted_peft=None,
        note="b is the length of one sequence; the paper's bytes are multiplied by 4 once more.",
    ),
    Estimate(
        source="course report B",
        formula="2p + 2p + 4p + 2p; PEFT 2p + 2p + 8 · trained",
        full=_half_precision_full,
        peft=partial(beside_frozen, PARAMETERS, 15_000_000, _ASSUMED),
        quoted_full=30 * GB,
        quoted_peft=round(12.12 * GB),
        note="Follows if the 15M trained parameters' own weights are counted; activations assumed.",
    ),
    Estimate(
        source="course report C",
        formula="2p + 2p + 4p + 2p; adapters 2p + 2p + 6 · trained",
        full=_half_precision_full,
        peft=partial(gradients_shrink, PARAMETERS, _ADAPTERS, _ASSUMED),
        quoted_full=30 * GB,
        quoted_peft=round(12.12 * GB),
        note="Follows if the 20,003,232 trained parameters' own weights are not counted, else it is"
        " 12.16; counted with h = 3230 and 24 layers, not 3200 and 26.",
    ),
    Estimate(
        source="course report D",
        formula="4p + 4p + 8p",
        full=partial(full_bytes, PARAMETERS, itemsize=4),
        peft=None,
        quoted_full=48 * GB,
        quoted_peft=None,
        note="No activations; PEFT was measured on another model, not estimated.",
    ),
    Estimate(
        source="course report E",
        formula="4n + (34bh + 5b²a) l, read as 4 (4n + (34bh + 5b²a) l)",
        full=partial(full_with_activations, PARAMETERS),
        peft=None,
        quoted_full=round(45.44 * GB),
        quoted_peft=round(24.27 * GB),
        note="48.79 GB are 45.44 GiB, so its GB seem to be 2^30 bytes. 24.27 is not derived: with"
        " 30M trained the formula gives 23.54 GiB if all gradients are kept, and 24.27 GiB only if"
        " the activations are counted twice as well, for which no reason is known.",
    ),
    Estimate(
        source=_KORTHIKANTI,
        formula="sbh (34 + 5as/h) l",
        full=partial(activation_bytes, 1, LENGTH, HIDDEN, HEADS, LAYERS),
        peft=None,
        quoted_full=None,
        quoted_peft=None,
        note=_ACTIVATIONS_ALONE,
    ),
    Estimate(
        source=f"{_KORTHIKANTI}, selective recomputation",
        formula="34sbh l",
        full=partial(selective_recompute_bytes, 1, LENGTH, HIDDEN, LAYERS),
        peft=None,
        quoted_full=None,
        quoted_peft=None,
        note=_ACTIVATIONS_ALONE,
    ),
    Estimate(
        source=f"{_KORTHIKANTI}, full recomputation",
        formula="2sbh l",
        full=partial(full_recompute_bytes, 1, LENGTH, HIDDEN, LAYERS),
        peft=None,
        quoted_full=None,
        quoted_peft=None,
        note=_ACTIVATIONS_ALONE,
    ),
)


def hand_estimates() -> list[dict[str, Any]]:
    """Returns `ESTIMATES` with their formulas computed, in bytes; None where there is no figure."""
    return [
        {
            "source": row.source,
            "formula": row.formula,
            "full_bytes": row.full(),
            "peft_bytes": row.peft() if row.peft else None,
            "quoted_full_bytes": row.quoted_full,
            "quoted_peft_bytes": row.quoted_peft,
            "note": row.note,
        }
        for row in ESTIMATES
    ]
