"""The cells of the public table: which models, methods, devices and batches, in what order.

    for cell in cells():
        print(cell.model, cell.device, cell.method, cell.batch_size, cell.length)

The models and devices that most people ask for come first.
"""

from dataclasses import dataclass
from itertools import product

WANTED_MODELS = (
    "bert-base-uncased",
    "roberta-base",
    "sentence-transformers/all-MiniLM-L6-v2",
    "roberta-large",
)
MODELS = (
    *WANTED_MODELS,
    "distilbert-base-uncased",
    "bert-large-uncased",
    "xlm-roberta-base",
    "answerdotai/ModernBERT-base",
    "distilroberta-base",
    "google/electra-base-discriminator",
    "albert-base-v2",
    "microsoft/mpnet-base",
    "allenai/scibert_scivocab_uncased",
    "bert-base-cased",
    "google/electra-small-discriminator",
    "bert-base-multilingual-cased",
    "xlm-roberta-large",
    "answerdotai/ModernBERT-large",
    "google/electra-large-discriminator",
    "openlm-research/open_llama_3b",
)
WANTED_DEVICES = ("t4", "3090", "a100-80", "h100")
DEVICES = (*WANTED_DEVICES, "l4", "a6000", "v100", "b200", "v5e", "v6e")
# Their compiler takes minutes for a program, so they have fewer rows: the wanted models, one batch.
TPUS = ("v5e", "v6e")

# (batch size, padded length in tokens)
SHAPES = ((8, 128), (32, 128), (8, 512))


@dataclass(frozen=True)
class Variant:
    """A row's method: what `config.memory` takes for it."""

    method: str
    remat: str = "none"
    frozen_dtype: str = "float32"


METHODS = {
    "full": Variant("full"),
    "lora": Variant("lora"),
    "lora, remat": Variant("lora", remat="layer"),
    "houlsby": Variant("houlsby"),
    "lora, nf4": Variant("lora", frozen_dtype="nf4"),
    "lora, top 2 layers": Variant("lora-top"),
}


@dataclass(frozen=True)
class Cell:
    """One training step of the table."""

    model: str
    device: str
    method: str  # key in METHODS
    batch_size: int
    length: int


def cells() -> list[Cell]:
    """Returns all cells, the most wanted first, those of one model and device together."""
    pairs = [(m, d) for m, d in product(MODELS, DEVICES) if d not in TPUS or m in WANTED_MODELS]
    pairs.sort(key=rank)
    return [
        Cell(model, device, method, *shape)
        for model, device in pairs
        for shape, method in product(shapes_of(device), METHODS)
    ]


def shapes_of(device: str) -> tuple[tuple[int, int], ...]:
    """The batches that a device has rows for; a TPU has one."""
    return SHAPES[1:2] if device in TPUS else SHAPES


def rank(pair: tuple[str, str]) -> tuple[int, int, int]:
    """The place of a model and a device: TPUs last, and rarely requested ones later."""
    model, device = pair
    asked_for = (model in WANTED_MODELS) + (device in WANTED_DEVICES)
    tier = 3 if device in TPUS else 2 - asked_for
    return tier, MODELS.index(model), DEVICES.index(device)


def left(finished: set[Cell]) -> list[Cell]:
    """Returns the cells that are not finished, the most wanted first."""
    return [cell for cell in cells() if cell not in finished]
