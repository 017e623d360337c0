"""Bytes to text: UTF-8 files, gzipped or not; errors describe any other file.

read_text(Path("train.jsonl.gz"))
"""

import codecs
import gzip
import zlib
from pathlib import Path

from jaxft.errors import InputError


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file (a byte order mark is fine) without trailing line breaks.

    Raises:
      InputError: the file is missing, unreadable, empty or not UTF-8.
    """
    return read_decoded(path).rstrip("\r\n")


def read_decoded(path: Path) -> str:
    """Returns the whole text of a UTF-8 file; see `read_text`."""
    data = read_bytes(path)
    body = data.removeprefix(codecs.BOM_UTF8)
    # UTF-16 without a mark is valid UTF-8 as long as it is ASCII: every second byte is then a NUL.
    head = body[:1000]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or head.count(0) > len(head) / 4:
        raise InputError(f"{path}:1: not UTF-8; it looks like UTF-16: convert it to UTF-8")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        offset = error.start + len(data) - len(body)
        what = f"not UTF-8 (byte 0x{body[error.start]:02x} at offset {offset})"
        raise InputError(f"{path}:{line}: {what}; likely latin-1: convert it to UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}:1: the file is empty")
    return text


def read_bytes(path: Path) -> bytes:
    """Returns the bytes of a file; of a .gz file, those that it holds.

    Raises:
      InputError: the file is missing (naming what is in its folder) or cannot be read.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {describe_folder(path.parent)}") from None
    # BadGzipFile is an OSError, so it goes first.
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}:1: broken gzip: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from None


def describe_folder(folder: Path) -> str:
    """Returns words for a message: the files in `folder`."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{folder} holds {shown or 'nothing'}"
