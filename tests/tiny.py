"""A tiny BERT with a tokenizer of its own, made from the bundled samples: no network is needed.

    tiny.write_tokenizer(directory)              # returns the size of its vocabulary
    tiny.write_checkpoint(directory, config)     # tokenizer, config.json and random weights

The files are those of any BERT on the hub, so transformers' AutoTokenizer reads them.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_serialize
from tokenizers.implementations import BertWordPieceTokenizer

from jaxft.models import backbone as backbones
from jaxft.models.backbone import Params

SAMPLES = Path(__file__).parents[1] / "jaxft" / "data" / "samples"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = 600  # the most frequent words; others are spelled out


def vocabulary() -> list[str]:
    """Returns special tokens, every character as a word and as its continuation, and words.

    With every character in it, no word of the samples is unknown. Ties go by the alphabet, so the
    list is the same everywhere.
    """
    files = sorted(path for path in SAMPLES.rglob("*.*") if path.suffix != ".txt")
    text = "".join(path.read_text("utf-8") for path in files).lower()
    characters = sorted({c for c in text if not c.isspace()} | set(map(chr, range(33, 127))))
    counts = Counter(re.findall(r"[a-z]{2,}", text))
    words = sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]
    return [*SPECIAL, *characters, *(f"##{c}" for c in characters), *words]


def write_tokenizer(directory: Path) -> int:
    """Writes vocab.txt, tokenizer.json and tokenizer_config.json; returns the number of tokens."""
    tokens = vocabulary()
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    numbers = {token: number for number, token in enumerate(tokens)}
    tokenizer = BertWordPieceTokenizer(vocab=numbers, lowercase=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokens)


def write_checkpoint(directory: Path, config: dict[str, Any]) -> None:
    """Writes a random base model as Flax msgpack, its config and its tokenizer.

    Args:
      config: of a BERT or another family; `vocab_size` grows to the tokenizer's.
    """
    config = {**config, "vocab_size": max(write_tokenizer(directory), config["vocab_size"])}
    (directory / "config.json").write_text(json.dumps(config))
    shapes = backbones.parameter_shapes(backbones.from_config(config, num_labels=2))
    family = f"{config['model_type']}/"
    base = {
        path.removeprefix(family): x
        for path, x in random_params(shapes, seed=0).items()
        if path.startswith(family)
    }
    (directory / "flax_model.msgpack").write_bytes(msgpack_serialize(backbones.nested(base)))


def random_params(shapes: Params, seed: int) -> Params:
    """Random arrays in which no leaf is zero or one throughout, so that each of them matters."""
    rng = np.random.default_rng(seed)
    return {
        path: rng.normal(float(path.endswith("/scale")), 0.05, x.shape).astype(np.float32)
        for path, x in sorted(shapes.items())
    }
