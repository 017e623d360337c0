"""The compilers' folder: what is downloaded into it, who finds it, and what is said without it."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from jaxft.errors import InputError
from jaxft.planning import compilers
from jaxft.planning.targets import COMPILERS, parse

MODULE = COMPILERS["cuda"][0]
pytestmark = pytest.mark.skipif(
    compilers.is_here("cuda") or compilers.is_here("tpu"), reason="this Python has the compilers"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path))
    return tmp_path


def found_by_a_process() -> bool:
    code = f"import importlib.util as u, sys; sys.path = {sys.path!r}; "
    code += f"sys.exit(not u.find_spec({MODULE!r}))"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_processes_started_meanwhile_find_the_folder(cache: Path) -> None:
    (compilers.folder("cuda") / MODULE).mkdir(parents=True)
    (compilers.folder("cuda") / MODULE / "__init__.py").touch()
    assert not compilers.is_here("cuda")
    with compilers.findable("cuda"):
        assert compilers.is_here("cuda")
        assert found_by_a_process()
    assert not compilers.is_here("cuda")
    assert not found_by_a_process()


@pytest.mark.parametrize(("target", "extra"), [("h100:8", "plan-gpu"), ("v5e", "plan-tpu")])
def test_without_a_compiler_the_message_has_what_installs_it(
    target: str, extra: str, cache: Path
) -> None:
    with pytest.raises(InputError) as caught:
        compilers.check(parse(target))
    said = str(caught.value)
    assert said.startswith(f"target: {target!r} needs the package ")
    assert "--install" in said
    assert f'pip install -c constraints.txt -e ".[{extra}]"' in said
    assert "\n" not in said
    compilers.folder(parse(target).platform).mkdir(parents=True)
    compilers.check(parse(target))
    compilers.check(parse("here"))


def test_an_installed_package_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "ROOT", Path("/nowhere"))
    assert compilers.command("plan-gpu") == 'pip install "jaxft[plan-gpu]"'


def test_pins_are_those_of_constraints_or_of_the_packages_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jax = version("jax")
    in_clone = compilers.pins("cuda") + compilers.pins("tpu")
    constraints = (compilers.ROOT / "constraints.txt").read_text().splitlines()
    assert set(in_clone) <= set(constraints)
    monkeypatch.setattr(compilers, "ROOT", Path("/nowhere"))
    plugin, pjrt, nvcc = compilers.pins("cuda")
    # jax says which plugins go with it: from one version to the same.
    assert plugin.startswith("jax-cuda12-plugin")
    assert pjrt == plugin.replace("plugin", "pjrt")
    assert f"<={jax}" in plugin
    assert f">={jax}" in plugin
    assert compilers.pins("tpu")[0].startswith("libtpu==")
    assert nvcc.startswith("nvidia-cuda-nvcc-cu12")


def test_an_extra_pins_the_one_package_that_jax_does_not() -> None:
    text = (compilers.ROOT / "pyproject.toml").read_text()
    assert f'"{compilers.pins("cuda")[2]}"' in text


def test_a_failed_download_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pip's own setting: no index at all.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match="--install: pip failed: "):
        compilers.install("tpu", lambda _: None)
    assert not compilers.folder("tpu").exists()
    assert list((cache / "compilers").glob("tmp*")) == []
