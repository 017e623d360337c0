"""The compilers of devices that are not here: their packages, in a folder of their own.

    pins("cuda")                   # ["jax-cuda12-plugin==0.10.2", ...]: what `install` downloads
    with findable("cuda"):         # a process that is started here finds them
        versions()

JAX's plugins write to stderr whenever JAX starts, so they are kept out of the environment that
trains: the folder is on the path of the compiling process alone. Packages that are installed in
the environment come first.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from jaxft import locks
from jaxft.data.sources import cache_dir
from jaxft.errors import InputError
from jaxft.planning.targets import COMPILERS, Target

# platform -> the packages that compile for it
PACKAGES = {
    "cuda": ("jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12"),
    "tpu": ("libtpu",),
}
# Packages that jax requires in the version of another one.
SAME_VERSION = {"jax-cuda12-pjrt": "jax-cuda12-plugin"}
# Packages whose versions affect a compiled program; those that are not installed are left out.
DECISIVE = ("jax", "jaxlib", "flax", "optax", "transformers", "jax-cuda12-pjrt", "libtpu")
# The variables that configure the compilers.
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
ROOT = Path(__file__).parents[2]


def versions() -> dict[str, str]:
    """Returns the versions of the packages that decide a plan; call it inside of `findable`."""
    found = {}
    for name in DECISIVE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# What comes after XLA has planned the memory: LLVM and ptxas make kernels, which nobody runs.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_gpu_disable_gpuasm_optimizations": True,
    # XLA decides what to fuse in tasks so small that handing them to threads costs more time than
    # it saves; and programs are compiled beside each other as it is.
    "xla_gpu_force_compilation_parallelism": 1,
}
_kernels: list[Path] = []  # where this process keeps kernels, if it does


def keep_kernels(directory: Path) -> None:
    """Lets this process keep the kernels of a program for the next one, which shares many."""
    _kernels[:] = [directory / f"kernels-{os.getpid()}"]


def quick_options(target: Target) -> dict[str, Any]:
    """Returns options with which an absent GPU's program is compiled in half of the time.

    They change machine code, and no buffer: tests/planning/test_quick_compilation.py compares.
    """
    if target.platform != "cuda":
        return {}
    # One file for each GPU: a kernel is machine code.
    config = json.dumps(target.facts["target_config"], sort_keys=True)
    name = hashlib.sha256(config.encode()).hexdigest()[:16]
    kept = {"xla_gpu_kernel_cache_file": f"{_kernels[0]}-{name}"} if _kernels else {}
    return QUICK | kept


def folder(platform: str) -> Path:
    """Where `install` puts a platform's packages: one folder for each Python and version of JAX."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return cache_dir() / "compilers" / f"{platform}-jaxlib-{version('jaxlib')}-{python}"


def is_here(platform: str) -> bool:
    """Whether this process finds a platform's compiler; the present backend needs none."""
    return platform not in COMPILERS or importlib.util.find_spec(COMPILERS[platform][0]) is not None


@contextmanager
def findable(platform: str) -> Iterator[None]:
    """Puts a platform's folder on the path of the processes that are started meanwhile."""
    if is_here(platform) or not folder(platform).is_dir():
        yield
        return
    added = str(folder(platform))
    # First: another package's `nvidia` could hide this one.
    sys.path.insert(0, added)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(added)
        importlib.invalidate_caches()


def check(target: Target) -> None:
    """Raises InputError, with what installs it, unless there is a compiler for the target."""
    if is_here(target.platform) or folder(target.platform).is_dir():
        return
    module, extra = COMPILERS[target.platform]
    raise InputError(
        f"target: {target.name!r} needs the package {module.replace('_', '-')}; add --install to "
        f"`jaxft memory`, which keeps it in jaxft's cache, or run: {command(extra)}"
    )


def command(extra: str) -> str:
    """The command that installs an extra into this environment."""
    if constraints() is None:
        return f'pip install "jaxft[{extra}]"'
    return f'pip install -c constraints.txt -e ".[{extra}]"'


def constraints() -> Path | None:
    """The clone's constraints.txt; None for an installed package."""
    file = ROOT / "constraints.txt"
    return file if file.is_file() and (ROOT / "pyproject.toml").is_file() else None


def pins(platform: str) -> list[str]:
    """Returns pip's requirements for a platform's packages, as in `["libtpu==0.0.42.1"]`.

    In a clone they are those of constraints.txt, as long as they are for the JAX that is installed.
    Otherwise they are from the metadata of jaxft and of jax, which names the versions of its own
    plugins.
    """
    known = requirements("jax") | requirements("jaxft")
    file = constraints()
    if file:
        pinned = dict(map(parsed, file.read_text("utf-8").splitlines()))
        if pinned.get("jaxlib") == f"=={version('jaxlib')}":
            known |= pinned
    wanted = ((name, SAME_VERSION.get(name, name)) for name in PACKAGES[platform])
    return [name + (known.get(name) or known.get(other, "")) for name, other in wanted]


def requirements(package: str) -> dict[str, str]:
    """Returns name -> versions of what a package requires, its extras included."""
    try:
        found = dict(map(parsed, requires(package) or []))
    except PackageNotFoundError:  # a clone that is on the path only
        return {}
    return {name: versions for name, versions in found.items() if versions}


def parsed(line: str) -> tuple[str, str]:
    """`libtpu==0.0.42.*; extra == "tpu"` -> `("libtpu", "==0.0.42.*")`."""
    found = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;#]*)", line)
    return (found[1], found[2].strip()) if found else ("", "")


def install(platform: str, say: Callable[[str], None]) -> Path:
    """Downloads a platform's packages into their folder, unless there is a compiler already.

    They are moved into place when all of them are there, so an interrupted download leaves nothing.

    Raises:
      InputError: there is no pip, or it failed.
    """
    home = folder(platform)
    if is_here(platform) or home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with (
        locks.take(Path(f"{home}.lock"), timeout=-1),
        tempfile.TemporaryDirectory(dir=home.parent) as scratch,
    ):
        if not home.is_dir():
            wanted = pins(platform)
            say(f"downloading {', '.join(wanted)}, some hundred MB, into {home}")
            whole = Path(scratch) / home.name
            run_pip(["--no-deps", "--only-binary=:all:", "--target", str(whole), *wanted])
            whole.rename(home)
    return home


def run_pip(arguments: list[str]) -> None:
    """Runs `pip install` of this Python, or `uv pip install` in an environment without pip."""
    start = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if importlib.util.find_spec("pip") is None:
        uv = shutil.which("uv")
        if not uv:
            raise InputError("--install: this environment has no pip; python -m ensurepip adds it")
        start = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    done = subprocess.run([*start, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"--install: pip failed: {said[-1]}")
