"""A second copy of config.json, env.json and launches.jsonl, from which a damaged one is restored.

    keep(workdir)                                  # after one of them has been written
    texts = read(workdir)                          # name -> text; None without a sound copy
    restore(workdir, texts)                        # ["config.json"], the names of those restored

Without them a run could not be continued, though its checkpoints are sound: nothing else says which
run it is.
"""

import hashlib
import json
from pathlib import Path

from jaxft.io import replace_text, write_json

COPY = ".second_copy.json"
NAMES = ("config.json", "env.json", "launches.jsonl")
Texts = dict[str, str]


def text_of(path: Path) -> str | None:
    """Returns a file's text; None if there is none, or if it is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def keep(workdir: Path) -> None:
    """Writes the copy of the files as they are."""
    texts = {name: text for name in NAMES if (text := text_of(workdir / name)) is not None}
    write_json(workdir / COPY, {"files": texts, "sha256": sha256_of(texts)})


def read(workdir: Path) -> Texts | None:
    """Returns the copied texts; None if there is no copy or it is damaged itself."""
    try:
        content = json.loads((workdir / COPY).read_text("utf-8"))
        texts, expected = content["files"], content["sha256"]
        # The file may be anyone's: no other name, above all no path, is ever written.
        is_known = set(texts) <= set(NAMES) and all(type(x) is str for x in texts.values())
        return dict(texts) if is_known and sha256_of(texts) == expected else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def restore(workdir: Path, texts: Texts) -> list[str]:
    """Writes the files that are not as copied; returns their names.

    launches.jsonl may be longer than its copy: a kill may come between a start's line and the copy.
    """
    restored = []
    for name, text in texts.items():
        found = text_of(workdir / name)
        is_longer = name == "launches.jsonl" and found is not None and found.startswith(text)
        if found != text and not is_longer:
            replace_text(workdir / name, text)
            restored.append(name)
    return restored


def sha256_of(texts: Texts) -> str:
    """The digest of all copied texts."""
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
