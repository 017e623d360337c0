"""Where the files of a task come from: a directory, the download cache, the network, the samples.

    find_files("acl", CATALOGUE["acl"].files, data_dir=None, source="auto").files["train"]

`auto` takes the first of DIR/acl/, $JAXFT_DATA/acl/ and the pinned download (kept in
$JAXFT_CACHE/data/acl/, by default ~/.cache/jaxft). It never falls back to the samples by itself:
scores on those mean nothing. $JAXFT_DOWNLOAD_ROOT names a mirror of raw.githubusercontent.com.
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from jaxft import locks
from jaxft.data.formats.text import describe_folder
from jaxft.errors import InputError, check_choice, one_line
from jaxft.io import user_path

SOURCES = ("auto", "local", "download", "sample")
SPLITS = ("train", "dev", "test")
TIMEOUT_S = 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a public GitHub repository, pinned by commit and content."""

    repo: str
    commit: str
    path: str
    sha256: str
    # False: recognised by its sha256 in a local directory, but never downloaded.
    download: bool = True
    ending: str = ""  # the ending under which it is kept; "" for that of `path`


@dataclass(frozen=True)
class Layout:
    """The names of a task's files in its folder: train.jsonl, or train.jsonl.gz."""

    endings: tuple[str, ...] = ("jsonl", "json", "csv", "tsv", "parquet")
    names: Mapping[str, str] = field(default_factory=dict)  # split -> its publisher's own name
    required: tuple[str, ...] = ("train", "test")

    def names_of(self, *stems: str) -> list[str]:
        """Returns the names that a file of one of these stems may have."""
        plain = [f"{stem}.{ending}" for stem in stems for ending in self.endings]
        return plain + [f"{name}.gz" for name in plain if not name.endswith(".parquet")]

    def describe(self, stem: str) -> str:
        """Returns words for these names: `train.jsonl|json|csv, or .gz of it`."""
        return f"{stem}.{'|'.join(self.endings)}, or .gz of it"


@dataclass(frozen=True)
class Found:
    """The files of a task by split, and where they come from in a word and in a sentence."""

    source: str
    origin: str
    files: dict[str, Path]


def find_files(
    task: str,
    remote: Mapping[str, RemoteFile],
    *,
    data_dir: str | None,
    source: str,
    layout: Layout | None = None,
    sample: Path | None = None,
    corpus: str = "",
) -> Found:
    """Returns the files of a catalogue task (a bare name such as "acl") from the asked `source`.

    Args:
      remote: its published files by split.
      sample: the folder of its sample; None for that in this package.
      corpus: the published data of which the sample is no part.

    Raises:
      InputError: nothing found; the message lists the places searched and what to do.
    """
    check_choice(source, SOURCES, "data.source")
    layout = layout or Layout()
    if source == "sample":
        return _sample(task, layout, sample, corpus)
    looked = []
    if source in ("auto", "local"):
        for directory, given in _directories(data_dir):
            found = _local(directory, task, remote, layout, must_exist=given)
            if found:
                return found
            looked.append(str(directory / task))
    if source in ("auto", "download") and remote:
        try:
            return _download(task, remote)
        except InputError as error:
            looked.append(str(error))
    elif source in ("auto", "download"):
        looked.append("no published files")
    ways_out = "give --config.data.dir=DIR or $JAXFT_DATA, or try --config.data.source=sample"
    raise InputError(
        f"no data for task {task}: looked in {'; '.join(looked) or 'no DIR'}; {ways_out}"
    )


def files_in(folder: Path, layout: Layout) -> dict[str, Path]:
    """Returns the files of a task folder by split: train.jsonl, or its publisher's own names.

    Raises:
      InputError: there are two files for one split.
    """
    files = {}
    for split in SPLITS:
        own = [layout.names[split]] if split in layout.names else []
        path = file_of_split(folder, layout.names_of(split) + own)
        if path:
            files[split] = path
    return files


def file_of_split(folder: Path, names: Sequence[str]) -> Path | None:
    """Returns the one file of a folder that has one of these names, or None.

    Raises:
      InputError: there are two.
    """
    present = [name for name in names if (folder / name).is_file()]
    if len(present) > 1:
        raise InputError(f"{folder}: both {present[0]} and {present[1]}; keep one of them")
    return folder / present[0] if present else None


def sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def cache_dir() -> Path:
    """Returns where downloads are kept: `$JAXFT_CACHE`, else `~/.cache/jaxft`."""
    return Path(os.environ.get("JAXFT_CACHE") or "~/.cache/jaxft").expanduser()


# ---------------------------------------------------------------- directories


def _directories(data_dir: str | None) -> list[tuple[Path, bool]]:
    """The directories to look in, each with whether the user named it for this run."""
    directories = [(user_path(data_dir, "data.dir"), True)] if data_dir else []
    if os.environ.get("JAXFT_DATA"):
        directories.append((user_path(os.environ["JAXFT_DATA"], "$JAXFT_DATA"), False))
    return directories


def _local(
    directory: Path,
    task: str,
    remote: Mapping[str, RemoteFile],
    layout: Layout,
    *,
    must_exist: bool,
) -> Found | None:
    folder = directory / task
    if not folder.is_dir():
        if must_exist:
            raise InputError(f"data.dir: no folder {folder}; {describe_folder(directory)}")
        return None
    files = files_in(folder, layout)
    _check_complete(folder, files, layout)
    if not remote:
        return Found("local", f"local files in {folder}", files)
    published = {file.sha256 for file in remote.values()}
    other = [path.name for path in files.values() if sha256(path) not in published]
    state = (
        f"differs from the published files: {', '.join(other)}" if other else "the published files"
    )
    return Found("local", f"local files in {folder} ({state})", files)


def _check_complete(folder: Path, files: Mapping[str, Path], layout: Layout) -> None:
    for split in layout.required:
        if split not in files:
            names = layout.describe(split)
            raise InputError(f"{folder}: no {split} file ({names}); {describe_folder(folder)}")


def _sample(task: str, layout: Layout, folder: Path | None, corpus: str) -> Found:
    folder = folder or Path(str(resources.files("jaxft.data"))) / "samples" / task
    if not folder.is_dir():
        raise InputError(f"data.source: task {task} has no bundled sample (looked for {folder})")
    files = files_in(folder, layout)
    _check_complete(folder, files, layout)
    return Found("sample", f"bundled sample (written for jaxft, not {corpus or task})", files)


# ---------------------------------------------------------------- download


def _download(task: str, remote: Mapping[str, RemoteFile]) -> Found:
    files, origins = {}, []
    for split, file in remote.items():
        if file.download:
            files[split] = cache_dir() / "data" / task / f"{split}.{_ending(file)}"
            fetch(file, files[split])
            origins.append(f"{file.repo}@{file.commit[:7]}")
    return Found("download", f"downloaded from {', '.join(dict.fromkeys(origins))}", files)


def _ending(file: RemoteFile) -> str:
    suffixes = Path(file.path).suffixes
    own = "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])
    return file.ending or own.removeprefix(".")


def fetch(file: RemoteFile, target: Path) -> None:
    """Ensures that `target` is the pinned file; downloads it if necessary.

    If several processes ask for a target at once, one downloads and the others wait.

    Raises:
      InputError: the network or the disk failed, or the content is not the pinned one.
    """
    if _holds(target, file):  # before the lock: a shared cache may be read-only
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locks.take(Path(f"{target}.lock"), timeout=-1):
            if _holds(target, file):
                return
            url = _url(file)
            print(f"jaxft: downloading {url}", file=sys.stderr, flush=True)
            _retrieve(url, file.sha256, target)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror or one_line(error, most=2000)}"
        ) from None


def _holds(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and sha256(path) == file.sha256


def _url(file: RemoteFile) -> str:
    root = os.environ.get("JAXFT_DOWNLOAD_ROOT") or "https://raw.githubusercontent.com"
    return f"{root.rstrip('/')}/{file.repo}/{file.commit}/{file.path}"


def _retrieve(url: str, digest: str, target: Path) -> None:
    """Downloads to a temporary file next to the target, checks its sha256 and then renames it."""
    import pooch  # here: only a download needs it
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import HTTPError, RequestException

    pooch.get_logger().setLevel("WARNING")  # `fetch` has said what is downloaded
    try:
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https", "file"):
            raise InputError(f"{url}: unknown url type {scheme!r}; expected http, https or file")
        # A server that compresses on the way would do so twice to a .gz file.
        headers = {"Accept-Encoding": "identity"}
        http = pooch.HTTPDownloader(timeout=TIMEOUT_S, headers=headers)
        pooch.retrieve(
            url,
            known_hash=f"sha256:{digest}",
            fname=target.name,
            path=target.parent,
            downloader=_copy_file if scheme == "file" else http,
        )
        target.chmod(0o644)  # pooch's temporary files are for their owner alone
    except HTTPError as error:
        answer: Any = error.response  # this error always has one
        answer.close()  # pooch leaves it open
        raise InputError(f"{url}: HTTP {answer.status_code} {answer.reason}") from None
    except RequestException as error:
        cut = _bytes_missing(error)
        if cut:
            raise InputError(f"{url}: the connection ended after {cut}; run again") from None
        if isinstance(error, Unreachable):
            raise InputError(f"{url}: unreachable ({one_line(error, most=2000)})") from None
        raise InputError(f"{url}: {one_line(error, most=2000)}; run again") from None
    except ValueError as error:  # pooch's message for a wrong sha256
        found = re.search(r"but got ([0-9a-f]{64})", str(error))
        if not found:
            raise InputError(f"{url}: {one_line(error, most=2000)}") from None
        differ = f"expected sha256 {digest}, got {found[1]}"
        raise InputError(f"{url}: {differ}; the file was deleted, try again") from None


def _copy_file(url: str, target: str, pooch: object) -> None:
    """Downloads from a folder that mirrors the sources; pooch itself knows no file: addresses."""
    del pooch
    source = Path(url2pathname(urlsplit(url).path))
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise InputError(f"{url}: unreachable ({error.strerror})") from None


def _bytes_missing(error: Exception) -> str:
    """Returns `100000 of 307200 bytes` where the connection ended early (requests wraps it)."""
    from urllib3.exceptions import IncompleteRead

    cause: object = error
    while isinstance(cause, Exception):
        if isinstance(cause, IncompleteRead):
            got, missing = cause.partial, cause.expected
            return f"{got} of {got + missing} bytes"
        cause = next((x for x in reversed(cause.args) if isinstance(x, Exception)), None)
    return ""
