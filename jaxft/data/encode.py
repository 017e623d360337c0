"""Examples -> token ids, through the checkpoint's own tokenizer (`jaxft.data.tokenizer`).

    encoded = encode(tokenizer, dataset.train, dataset.labels, max_length=128)

An aspect task is encoded as the pair (term, sentence), which BERT distinguishes by token types.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.data.examples import Example
from jaxft.data.labels import CLASS, LabelKind
from jaxft.errors import InputError

Coded = tuple[np.ndarray, np.ndarray, int]  # ids, types, tokens before truncation
# A tokenizer's result takes 120 bytes a token, what is kept of it 20: of few texts at once.
AT_ONCE = 4096


@dataclass(frozen=True)
class Encoded:
    """A split as arrays, in the order of its examples.

    Attributes:
      ids: N arrays of int32, special tokens included, unpadded, at most `max_length` long.
      types: N arrays of int32, the token types (all 0 for a single text).
      labels: a row for each example, as the kind of label makes it: class indices (int32 N, -1
        for a text without a label), 0 or 1 for each class (float32 NxC), or numbers (float32 N).
      lengths: int32 N, tokens before truncation.
      pad_id: the id that fills a row up.
      hidden: N arrays, the outputs of a model's frozen layers for each text, where they are kept
        (`jaxft.run.keep`): LxD, or D where that of the first token is enough. None otherwise.
    """

    ids: list[np.ndarray]
    types: list[np.ndarray]
    labels: np.ndarray
    lengths: np.ndarray
    pad_id: int
    hidden: Sequence[np.ndarray] | None = None

    @cached_property
    def kept_lengths(self) -> np.ndarray:
        """int N, tokens after truncation."""
        return np.asarray([len(row) for row in self.ids], int)


def check_vocabulary(tokenizer: Any, size: int, directory: Path) -> None:
    """Raises InputError if the tokenizer knows ids that the embedding does not hold.

    Flax looks up ids beyond the table without an error; the logits would be NaN.

    Args:
      size: words that the embedding holds.
    """
    if len(tokenizer) > size:
        raise InputError(
            f"{directory}: the tokenizer has {len(tokenizer)} tokens, config.json vocab_size {size}"
        )


def check_max_length(max_length: int, longest: int) -> None:
    """Raises InputError if sequences may grow longer than the position table."""
    if not 4 <= max_length <= longest:
        raise InputError(
            f"data.max_length: {max_length}; expected 4 to {longest}, the model's longest sequence"
        )


def encode(
    tokenizer: Any,
    examples: Sequence[Example],
    labels: Sequence[str],
    max_length: int,
    kind: LabelKind = CLASS,
) -> Encoded:
    """Returns the examples' ids, types, labels and lengths.

    Args:
      labels: the label names in order; an example's label becomes its place among them.
      max_length: tokens kept; for pairs, the longer text is truncated first.
      kind: of the labels; it makes the targets.
    """
    rows = encode_once if tokenizer.is_fast else encode_twice
    coded = [
        row
        for start in range(0, len(examples), AT_ONCE)
        for row in rows(tokenizer, examples[start : start + AT_ONCE], max_length)
    ]
    return Encoded(
        ids=[ids for ids, _, _ in coded],
        types=[types for _, types, _ in coded],
        labels=kind.targets([e.label for e in examples], labels),
        lengths=np.asarray([length for _, _, length in coded], np.int32),
        pad_id=tokenizer.pad_token_id,
    )


def encode_once(tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[Coded]:
    """Returns (ids, types, length before truncation) of each example, with a fast tokenizer.

    Both texts of a pair are tokenized separately. The tokenizer's post-processing then truncates
    them and adds the special tokens, as a call with both texts would.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # tokenizer.json may say otherwise
    backend.no_padding()
    pairs = [i for i, e in enumerate(examples) if e.pair is not None]
    texts = backend.encode_batch([e.text for e in examples], add_special_tokens=False)
    found = backend.encode_batch([examples[i].pair for i in pairs], add_special_tokens=False)
    second = dict(zip(pairs, found, strict=True))
    added = [backend.num_special_tokens_to_add(is_pair) for is_pair in (False, True)]
    side = tokenizer.truncation_side
    backend.enable_truncation(max_length, strategy="longest_first", direction=side)
    coded = []
    for i, text in enumerate(texts):
        pair = second.get(i)
        length = len(text) + added[pair is not None] + (0 if pair is None else len(pair))
        kept = backend.post_process(text, pair, True)
        coded.append((np.asarray(kept.ids, np.int32), np.asarray(kept.type_ids, np.int32), length))
    backend.no_truncation()
    return coded


def encode_twice(tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[Coded]:
    """Returns the same with a tokenizer written in Python, which has no such post-processing."""
    whole = tokenize(tokenizer, examples, truncation=False)
    kept = tokenize(tokenizer, examples, truncation="longest_first", max_length=max_length)
    return [(*cut, len(ids)) for cut, (ids, _) in zip(kept, whole, strict=True)]


def tokenize(
    tokenizer: Any, examples: Sequence[Example], **options: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (ids, types) of each example, in order; merged tasks mix single texts and pairs."""
    rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    singles = [i for i, e in enumerate(examples) if e.pair is None]
    pairs = [i for i, e in enumerate(examples) if e.pair is not None]
    for chosen, second in ((singles, None), (pairs, [examples[i].pair for i in pairs])):
        if not chosen:
            continue
        first = [examples[i].text for i in chosen]
        # verbose=False, because the data report already counts truncated texts.
        coded = tokenizer(first, second, return_token_type_ids=True, verbose=False, **options)
        for i, ids, types in zip(chosen, coded["input_ids"], coded["token_type_ids"], strict=True):
            rows[i] = (np.asarray(ids, np.int32), np.asarray(types, np.int32))
    return [rows[i] for i in range(len(examples))]
