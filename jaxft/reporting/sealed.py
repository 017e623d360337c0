"""The sha256 of a finished run's files, which DONE holds, and the files that have changed since.

    seal(workdir)                        # writes DONE, which comes last
    changed(workdir)                     # ["results.json"]; [] for a run of an older jaxft

The trained leaves are not among them: settings.json beside them has their sha256. DONE has its own
under its name.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from jaxft.io import write_json

DONE = "DONE"
NAMES = (
    *("config.json", "env.json", "launches.jsonl", "metrics.jsonl", "predictions_test.jsonl"),
    *("results.json", "README.md", "adapter/settings.json", "model/settings.json"),
)
FOLDERS = ("plots", "tb")
SINCE = ".second_copy.json"  # a run that has one was finished by a jaxft that seals


def seal(workdir: Path) -> None:
    """Writes DONE: the name and the sha256 of each file."""
    known = {name: digest(workdir / name) for name in files(workdir)}
    write_json(workdir / DONE, known | {DONE: own_digest(known)})


def changed(workdir: Path) -> list[str]:
    """Returns the files that are missing or not as the run wrote them; DONE if that is damaged."""
    try:
        text = (workdir / DONE).read_text("utf-8")
        if not text:  # of an older jaxft
            return [DONE] if (workdir / SINCE).exists() else []
        found = json.loads(text)
        if found.pop(DONE, own_digest(found)) != own_digest(found):
            return [DONE]
        known = {name: x for name, x in found.items() if is_sealed(name)}
        return [name for name in known if digest(workdir / name) != known[name]]
    except (OSError, ValueError, AttributeError, TypeError):
        return [DONE]


def own_digest(known: dict[str, str | None]) -> str:
    """The sha256 of the names and digests that DONE holds."""
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def files(workdir: Path) -> Iterator[str]:
    """The names of the files whose digests are kept."""
    yield from (name for name in NAMES if (workdir / name).is_file())
    for folder in FOLDERS:
        paths = sorted(p for p in (workdir / folder).glob("*") if p.is_file())
        yield from (f"{folder}/{path.name}" for path in paths)


def is_sealed(name: str) -> bool:
    """Whether a run seals a file of this name; DONE may come from anybody."""
    folder, _, file = name.partition("/")
    return name in NAMES or (folder in FOLDERS and file == Path(file).name)


def digest(path: Path) -> str | None:
    """The sha256 of a file; None if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would block
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
