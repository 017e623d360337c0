"""Encoding equals the checkpoint's tokenizer example by example; bad checkpoints are told apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import BertTokenizer, BertTokenizerFast, RobertaTokenizerFast

from jaxft.data.encode import check_max_length, check_vocabulary, encode
from jaxft.data.examples import Example
from jaxft.data.tokenizer import FastTokenizer, load_tokenizer, tokenizer_class
from jaxft.errors import InputError

LABELS = ("a", "b")
words = st.lists(
    st.sampled_from(["the", "service", "was", "unbelievable", "tokenization", "!", "né", "\u4f60"]),
    max_size=12,
).map(" ".join)
texts = st.one_of(words, st.text(max_size=20))
example_lists = st.lists(
    st.builds(
        lambda text, pair, label: Example("0", text, pair, label, "t", "t:1"),
        texts,
        st.one_of(st.none(), texts),
        st.sampled_from(LABELS),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    return tokenizer_class().from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def real_tokenizer(minilm: Path) -> Any:
    return tokenizer_class().from_pretrained(minilm)


def one_by_one(tokenizer: Any, example: Example, **options: Any) -> dict[str, list[int]]:
    """Lists of one, because of two bare strings the tokenizer drops the second if it is empty."""
    texts = [[example.text]] if example.pair is None else [[example.text], [example.pair]]
    coded = tokenizer(*texts, return_token_type_ids=True, verbose=False, **options)
    return {name: rows[0] for name, rows in coded.items()}


VOCABULARY = ["the", "service", "was", "un", "##believ", "##able", "token", "!", "né", "\u4f60"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpieces(directory: Path) -> str:
    (directory / "vocab.txt").write_text("\n".join([*SPECIAL, *VOCABULARY]))
    return str(directory / "vocab.txt")


def bert_like(directory: Path) -> Any:
    return BertTokenizerFast(wordpieces(directory))


def cut_on_the_left(directory: Path) -> Any:
    return BertTokenizerFast(wordpieces(directory), truncation_side="left")


def with_settings_of_its_own(directory: Path) -> Any:
    """A tokenizer.json, as some hub models have it, that cuts off and pads by itself."""
    tokenizer = bert_like(directory)
    tokenizer.backend_tokenizer.enable_truncation(7)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    return BertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)


def with_a_template(directory: Path) -> Any:
    tokenizer = bert_like(directory)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def roberta_like(directory: Path) -> Any:
    """Pieces of bytes, four special tokens in a pair, one token type."""
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    vocabulary = {symbol: i for i, symbol in enumerate([*symbols, "th", "the", "\u0120the"])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("#version: 0.2\nt h\nth e\n\u0120 the\n")
    return RobertaTokenizerFast(str(directory / "vocab.json"), str(directory / "merges.txt"))


def written_in_python(directory: Path) -> Any:
    return BertTokenizer(wordpieces(directory))


KINDS = (
    bert_like,
    cut_on_the_left,
    with_settings_of_its_own,
    with_a_template,
    roberta_like,
    written_in_python,
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {kind.__name__: kind(tmp_path_factory.mktemp(kind.__name__)) for kind in KINDS}


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
@settings(deadline=None)
@given(examples=example_lists, max_length=st.integers(4, 20), at_once=st.integers(1, 5))
def test_mixed_singles_and_pairs_equal_the_tokenizer_one_by_one(
    tokenizers: dict[str, Any], kind: str, examples: list[Example], max_length: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxft.data.encode.AT_ONCE", at_once)
        check_one_by_one(tokenizers[kind], examples, max_length)


@settings(deadline=None)
@given(examples=example_lists, max_length=st.integers(4, 20))
def test_mixed_singles_and_pairs_equal_minilms_tokenizer_one_by_one(
    real_tokenizer: Any, examples: list[Example], max_length: int
) -> None:
    check_one_by_one(real_tokenizer, examples, max_length)


def check_one_by_one(
    tokenizer: Any, examples: list[Example], max_length: int, ours: Any = None
) -> None:
    encoded = encode(ours or tokenizer, examples, LABELS, max_length)
    assert len(encoded.ids) == len(encoded.types) == len(encoded.labels) == len(examples)
    for i, example in enumerate(examples):
        cut = one_by_one(tokenizer, example, truncation="longest_first", max_length=max_length)
        whole = one_by_one(tokenizer, example)
        assert encoded.ids[i].tolist() == cut["input_ids"]
        assert encoded.types[i].tolist() == cut["token_type_ids"]
        assert encoded.lengths[i] == len(whole["input_ids"])
        assert len(encoded.ids[i]) == min(max_length, encoded.lengths[i])
        assert LABELS[encoded.labels[i]] == example.label


# ---------------------------------------------------------------- the kept tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenizers"


EXAMPLES = [
    Example("0", "service", "The service was unbelievable, né?", "a", "t", "t:1"),
    Example("1", "[MASK] tokenization 你 \u00a0 x", None, "b", "t", "t:2"),
    Example("2", "", "", "b", "t", "t:3"),
]


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS] + ["minilm"])
def test_a_kept_tokenizer_is_the_one_that_was_read(
    kind: str, tokenizers: dict[str, Any], minilm: Path, tmp_path: Path, cache: Path
) -> None:
    directory = minilm
    if kind != "minilm":
        directory = tmp_path / "model"
        tokenizers[kind].save_pretrained(directory)
    theirs = tokenizer_class().from_pretrained(directory)
    first, kept = load_tokenizer(directory), load_tokenizer(directory)
    assert isinstance(kept, FastTokenizer)
    assert len(list(cache.iterdir())) == 1
    assert kept.backend_tokenizer is not first.backend_tokenizer
    assert (len(kept), kept.pad_token_id) == (len(theirs), theirs.pad_token_id)
    for max_length in (4, 6, 64):
        check_one_by_one(theirs, EXAMPLES, max_length, first)
        check_one_by_one(theirs, EXAMPLES, max_length, kept)


def test_a_changed_checkpoint_and_a_damaged_file_are_read_anew(
    tokenizers: dict[str, Any], tmp_path: Path, cache: Path
) -> None:
    tokenizers["bert_like"].save_pretrained(tmp_path / "model")
    load_tokenizer(tmp_path / "model")
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for damaged in (whole.replace(b"service", b"servise"), whole[:-9], b"[]", b"", b"\xff"):
        kept.write_bytes(damaged)
        load_tokenizer(tmp_path / "model")
        assert kept.read_bytes() == whole
    settings_file = tmp_path / "model" / "tokenizer_config.json"
    changed = {**json.loads(settings_file.read_text()), "truncation_side": "left"}
    settings_file.write_text(json.dumps(changed))
    assert load_tokenizer(tmp_path / "model").truncation_side == "left"
    assert len(list(cache.iterdir())) == 2


@settings(deadline=None)
@given(first=words, second=words, max_length=st.integers(4, 20))
def test_of_a_pair_the_longer_member_gives_way_first(
    tokenizer: Any, first: str, second: str, max_length: int
) -> None:
    a, b = (len(tokenizer.tokenize(text)) for text in (first, second))
    example = Example("0", first, second, "a", "t", "t:1")
    encoded = encode(tokenizer, [example], LABELS, max_length)
    ids, types = encoded.ids[0], encoded.types[0]
    kept_b = int(types.sum()) - 1
    kept_a = len(ids) - kept_b - 3  # [CLS] a [SEP] b [SEP]
    assert kept_a + kept_b == min(a + b, max_length - 3)
    assert min(kept_a, kept_b) >= min(a, b, (max_length - 3) // 2)


def test_a_pair_gets_two_token_types_and_a_single_text_one(tokenizer: Any) -> None:
    pair = Example("0", "service", "the service was good", "b", "t", "t:1")
    single = Example("1", "the service was good", None, "a", "t", "t:2")
    encoded = encode(tokenizer, [pair, single], LABELS, 32)
    assert encoded.types[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert encoded.types[1].tolist() == [0] * 6
    assert encoded.labels.tolist() == [1, 0]
    assert {x.dtype for x in (*encoded.ids, *encoded.types, encoded.labels)} == {np.dtype("int32")}
    assert encoded.pad_id == tokenizer.pad_token_id


def test_a_text_without_label_is_minus_one(tokenizer: Any) -> None:
    encoded = encode(tokenizer, [Example("0", "text", None, "", "t", "t:1")], LABELS, 32)
    assert encoded.labels.tolist() == [-1]


def check_one_line(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts)


def test_a_directory_without_tokenizer_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 10}')
    with pytest.raises(InputError) as error:
        load_tokenizer(tmp_path)
    check_one_line(error, str(tmp_path), "tokenizer.json", "vocab.txt")


@pytest.mark.parametrize("max_length", [-1, 0, 3, 513])
def test_a_length_beyond_the_position_table_is_bad_input(max_length: int) -> None:
    with pytest.raises(InputError) as error:
        check_max_length(max_length, 512)
    check_one_line(error, "data.max_length", str(max_length), "512")


@pytest.mark.parametrize("max_length", [4, 128, 512])
def test_a_length_within_the_position_table_is_fine(max_length: int) -> None:
    check_max_length(max_length, 512)


def test_more_tokens_than_embeddings_is_bad_input(tmp_path: Path) -> None:
    check_vocabulary(range(10), 10, tmp_path)
    with pytest.raises(InputError) as error:
        check_vocabulary(range(11), 10, tmp_path)
    check_one_line(error, str(tmp_path), "11", "10")


def test_the_real_vocabulary_fits_its_embedding(minilm: Path, real_tokenizer: Any) -> None:
    config = json.loads((minilm / "config.json").read_text())
    check_vocabulary(real_tokenizer, config["vocab_size"], minilm)
