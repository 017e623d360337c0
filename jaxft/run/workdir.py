"""A run's directory: who writes it, what determines the run, and where it was started.

    check(workdir, config, env)                       # reads only; refuses another run's directory
    with claimed(workdir, config, env):               # no other process can write it meanwhile
        add_launch(workdir, env, step=120)

config.json and env.json are written once, when the run begins. Each start of it, the first one and
each that continues it, adds a line to launches.jsonl. If one of the three is damaged, the next
start restores it (`jaxft.run.second_copy`). A finished run is only read.
"""

import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import Timeout
from flax.traverse_util import flatten_dict

from jaxft import locks
from jaxft.config import identity
from jaxft.errors import InputError
from jaxft.io import read_json, write_json, write_jsonl
from jaxft.run import second_copy

# The digests of env.json of a run's inputs. An older jaxft wrote only some of them.
ORIGINS = {
    "data_sha256": "data",
    "splits_sha256": "data",
    "weights_sha256": "weights",
    "model_sha256": "model",
    "init_sha256": "model of init_from",
}


def check(workdir: Path, config: Mapping[str, Any], env: Mapping[str, Any]) -> None:
    """Raises InputError unless a run with this config.json and env.json may be written here.

    The directory must be empty or hold the same run. The message names the first field that
      differs, or says that the data, the weights or the tokenizer have changed.
    """
    if workdir.is_file():
        raise InputError(f"--workdir: {workdir} is a file")
    if (workdir / "config.json").exists() or second_copy.read(workdir):
        written_by(workdir, config, env)
    elif workdir.is_dir() and not all(begun(path.name) for path in workdir.iterdir()):
        raise InputError(f"--workdir: {workdir} is not empty and holds no run; choose another")


@contextmanager
def claimed(workdir: Path, config: Mapping[str, Any], env: Mapping[str, Any]) -> Iterator[None]:
    """Holds a run's lock; writes config.json and env.json if the run has not begun yet.

    Raises:
      InputError: see `check`; or another process is writing this run.
    """
    check(workdir, config, env)  # before anything is written into a directory of something else
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.take(workdir / ".lock", timeout=1)  # `check_free` holds it for a moment
    except Timeout as err:
        raise busy(workdir) from err
    with lock:
        check(workdir, config, env)  # again: another process may have started the run meanwhile
        remove_temporaries(workdir)
        if (workdir / "config.json").exists() or second_copy.read(workdir):
            repair(workdir, config, env)
        else:
            write_json(workdir / "env.json", env)
            write_json(workdir / "config.json", config)  # last: it marks the directory as a run's
        yield


def check_free(workdir: Path) -> None:
    """Raises InputError if another process is writing this run: before anything is loaded."""
    if locks.is_held(workdir / ".lock"):
        raise busy(workdir)


def busy(workdir: Path) -> InputError:
    return InputError(f"{workdir}: another process is writing this run")


def repair(workdir: Path, config: Mapping[str, Any], env: Mapping[str, Any]) -> None:
    """Restores the files of a run's beginning that are not as it wrote them, and says so."""
    texts = written_by(workdir, config, env)
    if texts is not None:
        for name in second_copy.restore(workdir, texts):
            print(f"{workdir / name} was damaged; restored from {second_copy.COPY}")
        return
    if (workdir / second_copy.COPY).exists():  # a run of an older jaxft has none
        print(f"{workdir / second_copy.COPY} was damaged; written anew")
    second_copy.keep(workdir)


def remove_temporaries(workdir: Path) -> None:
    """Removes the files that a kill left half written."""
    for folder in (workdir, *(workdir / name for name in ("adapter", "model", "plots"))):
        for path in folder.glob("*.tmp"):
            if re.search(r"\.[0-9a-f]{8}\.tmp$", path.name):
                path.unlink()


def begun(name: str) -> bool:
    """Whether a kill right at the start may have left this file; config.json is written last."""
    return re.fullmatch(r"(env|config)\.json(\.([0-9a-f]+\.)?tmp)?|\.lock", name) is not None


def written_by(
    workdir: Path, config: Mapping[str, Any], env: Mapping[str, Any]
) -> second_copy.Texts | None:
    """Returns the second copy of the run's first files; None if it is damaged or another run's.

    Raises:
      InputError: the run in `workdir` has another config, other data or other weights, by its files
        as well as by their copy.
    """
    texts = second_copy.read(workdir)
    if texts is not None:
        try:
            check_same_run(
                workdir,
                json.loads(texts["config.json"]),
                json.loads(texts["env.json"]),
                config,
                env,
            )
            return texts
        except (InputError, KeyError, ValueError):
            pass  # the files decide
    try:
        stored, before = (read_json(workdir / name) for name in ("config.json", "env.json"))
    except InputError as err:
        raise InputError(
            f"{err}; nothing says which run this is: choose another --workdir"
        ) from err
    check_same_run(workdir, stored, before, config, env)
    return None


def check_same_run(
    workdir: Path,
    stored: Mapping[str, Any],
    before: Mapping[str, Any],
    config: Mapping[str, Any],
    env: Mapping[str, Any],
) -> None:
    """Raises InputError unless the run in `workdir` has this config, data and weights.

    Args:
      stored, before: its config.json and env.json.
    """
    old, new = (flatten_dict(identity(dict(x)), sep=".") for x in (stored, config))
    if "implementation" not in stored.get("model", {}):
        # Begun when transformers' classes were all there was: either implementation continues it.
        new.pop("model.implementation", None)
    for name in sorted(old | new):
        if old.get(name) != new.get(name):
            raise InputError(
                f"--workdir: {workdir} holds a run with {name} = {old.get(name)!r}, this one has "
                f"{new.get(name)!r}; choose another --workdir or remove it"
            )
    for name, what in ORIGINS.items():
        if name in before and before[name] != env[name]:
            raise InputError(
                f"--workdir: the {what}{changed_parts(before[name], env[name])} changed since "
                f"{workdir} was begun; use another"
            )


def changed_parts(before: Any, now: Any) -> str:
    """` (config, tokenizer)`: which parts of a model or a dataset differ, if digests tell them."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return ""
    return f" ({', '.join(name for name in now if before.get(name) != now[name])})"


# ---------------------------------------------------------------- launches


def add_launch(workdir: Path, env: Mapping[str, Any], step: int) -> None:
    """Appends a start of the run: when, where, by which command and versions, from which step."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "step": step,
        **{name: env[name] for name in ("command", "backend", "devices", "python", "versions")},
    }
    # As a whole: a kill may have cut the last line short, and this one would continue it.
    write_jsonl(workdir / "launches.jsonl", [*launches(workdir), line])
    second_copy.keep(workdir)


def launches(workdir: Path) -> list[dict[str, Any]]:
    """Returns the starts of a run, oldest first; none for a run of an older jaxft.

    A line that cannot be read, as one that a kill cut short, is left out.
    """
    path = workdir / "launches.jsonl"
    found = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def other_versions(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`jax 0.10.1 -> 0.10.2, ...`: what changed since a launch; empty if nothing did."""
    old, new = before["versions"], now["versions"]
    changed = [name for name in new if old.get(name) != new[name]]
    return ", ".join(f"{name} {old.get(name)} -> {new[name]}" for name in changed)
