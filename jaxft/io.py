r"""Atomic file writes, safe against kills, power cuts and concurrent writers.

replace_text(Path("runs/acl/results.json"), "{}\n")
replace_bytes(Path("runs/acl/adapter/trained.safetensors"), data)
"""

import errno
import os
import secrets
from pathlib import Path

# What some network file systems answer: they cannot flush a directory and keep their own order.
NO_FSYNC = (errno.EINVAL, errno.ENOTSUP)


def replace_text(path: Path, text: str) -> None:
    """Writes a file as UTF-8; see `replace_bytes`."""
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a file through a temporary one, so that a kill leaves the old file or the new one.

    Each writer has a temporary file of its own: of two at once, the later one's content stays. The
    content is on disk before the name is, and the name before this returns: otherwise some file
    systems leave an empty file under the new name after a power cut.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # a full disk, above all
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Writes a directory's entries to disk, where the system can do so."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno not in NO_FSYNC:
            raise
    finally:
        os.close(descriptor)
