"""A checkpoint's tokenizer, whose fast part is kept from one command to the next.

    tokenizer = load_tokenizer(directory)
    tokenizer.backend_tokenizer.encode("The service was slow.").ids

transformers knows how to read a checkpoint's tokenizer, but to import it takes over a second. The
Rust tokenizer that it makes is all that encoding needs. It is kept as JSON in `tokenizers` of
`$JAXFT_CACHE`, under a digest of the files that it was made of.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from jaxft.data.sources import cache_dir
from jaxft.errors import InputError, one_line
from jaxft.io import keep_text, read_json

# Of a checkpoint's directory, all that a tokenizer may be made of; config.json names its class.
READ = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class FastTokenizer:
    """What encoding needs of a tokenizer of transformers, by its names there.

    Attributes:
      backend_tokenizer: the Rust tokenizer.
      pad_token_id: of the padding token.
      truncation_side: right or left.
      size: its tokens, those added to the vocabulary among them.
    """

    backend_tokenizer: Tokenizer
    pad_token_id: int
    truncation_side: str
    size: int
    is_fast: bool = True

    def __len__(self) -> int:
        return self.size


def load_tokenizer(directory: Path) -> Any:
    """Returns a checkpoint's tokenizer: a FastTokenizer, or transformers' if it has no Rust part.

    Raises:
      InputError: its files are missing; transformers would build an empty one or ask the hub.
    """
    if not any(
        (directory / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")
    ):
        raise InputError(
            f"{directory}: no tokenizer; expected tokenizer.json, vocab.txt or vocab.json"
        )
    kept = cache_dir() / "tokenizers" / f"{digest(directory)}.json"
    found = read_kept(kept)
    if found is None:
        found = read_with_transformers(directory)
        if isinstance(found, FastTokenizer):
            keep(found, kept)
    return found


def digest(directory: Path) -> str:
    """Returns the sha256 of all that decides on a tokenizer: the files, and who reads them."""
    total = hashlib.sha256()
    for name in ("transformers", "tokenizers"):
        total.update(f"{name} {version(name)}\n".encode())
    files = (path for path in directory.iterdir() if path.suffix in READ and path.is_file())
    for path in sorted(files):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()


def read_kept(path: Path) -> FastTokenizer | None:
    """Returns the tokenizer of a file of `keep`; None unless it is there and whole."""
    try:
        found = read_json(path)
        if sha256_of(found["fields"]) != found["sha256"]:
            return None
        fields = found["fields"]
        return FastTokenizer(Tokenizer.from_str(fields.pop("backend")), **fields)
    except (InputError, ValueError, KeyError, TypeError):
        return None


def keep(tokenizer: FastTokenizer, path: Path) -> None:
    """Writes a tokenizer, if there is room: it can be made again."""
    fields = {
        "backend": tokenizer.backend_tokenizer.to_str(),
        "pad_token_id": tokenizer.pad_token_id,
        "truncation_side": tokenizer.truncation_side,
        "size": tokenizer.size,
    }
    keep_text(path, json.dumps({"sha256": sha256_of(fields), "fields": fields}))


def sha256_of(fields: Any) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_with_transformers(directory: Path) -> Any:
    """Returns the tokenizer that transformers makes of a directory, of a fast one its fast part.

    Raises:
      InputError: its files cannot be read, or it has no padding token.
    """
    read = tokenizer_class().from_pretrained
    try:
        found = read(directory, use_fast=True, local_files_only=True)
    except Exception as err:  # of any kind, `Exception` itself from the Rust tokenizers
        raise InputError(f"{directory}: not a readable tokenizer ({one_line(err)})") from err
    if found.pad_token_id is None:
        raise InputError(f"{directory}: the tokenizer has no padding token")
    if not found.is_fast:
        return found
    side, size = found.truncation_side, len(found)
    return FastTokenizer(found.backend_tokenizer, found.pad_token_id, side, size)


def tokenizer_class() -> Any:
    """Returns transformers' AutoTokenizer, imported at the first call: that takes seconds."""
    with torch_hidden():
        from transformers import AutoTokenizer

    return AutoTokenizer


@contextmanager
def torch_hidden() -> Iterator[None]:
    """Hides torch from transformers while it is imported, if $USE_TORCH is 0.

    Importing torch takes seconds, and tokenizers do not need it. transformers 4 reads the variable
    itself; version 5 imports torch wherever it is installed. It asks once and keeps the answer.
    """
    hides = os.environ.get("USE_TORCH") == "0" and "torch" not in sys.modules
    if hides:
        sys.modules["torch"] = None  # type: ignore[assignment]  # as Python marks what is not there
    try:
        yield
    finally:
        if hides:
            del sys.modules["torch"]  # scipy takes a None there for a module
