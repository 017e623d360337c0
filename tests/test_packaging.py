"""The wheel holds every package, and works outside of a clone; the site builds."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> str:
    """Runs a script of the repository and returns what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pyproject_lists_every_package() -> None:
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for folder in ("jaxft", "configs")
        for file in (ROOT / folder).rglob("__init__.py")
    }
    installed = {name if name.startswith("jaxft") else f"jaxft.{name}" for name in found}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["setuptools"]["packages"]) == installed


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_environment() -> None:
    """The console script, a built-in config by name, the import; no top-level `configs`."""
    assert "works in an empty environment" in run("scripts/wheel.sh")


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    run("scripts/docs.sh", "--site-dir", str(tmp_path / "site"))
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= {folder.name for folder in (tmp_path / "site").iterdir()}
