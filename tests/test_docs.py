"""The README and the pages of docs/: links, anchors, files, fields, names and commands exist."""

import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ml_collections import ConfigDict

import jaxft

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda page: page.relative_to(ROOT)
)
# The pages that people write; below docs/results commands wrote most of the text.
WRITTEN = [page for page in PAGES if "results" not in page.relative_to(ROOT).parts[:-1]]
LINK = re.compile(r"!?\[[^]\[]*\]\(([^)\s]+)\)")
CONFIG = re.compile(r"\bconfigs/[\w/]+(?:\.py)?")
FIELD = re.compile(r"--config\.([a-z_.]+[a-z_])")
FILE = re.compile(r"\b(?:jaxft|scripts|tests|docs)(?:/\w[\w.-]*)+")
NAME = re.compile(r"\bjaxft(?:\.[A-Za-z_]\w*)+")


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page's text without code blocks, in which brackets and # mean something else."""
    fences = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"^(?: {4}|\t).*$", "", fences, flags=re.M)


def anchors(page: Path) -> Iterator[str]:
    """The anchors of a page's headings, as Markdown's toc and code hosts derive them."""
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.M):
        plain = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        yield re.sub(r"\s", "-", plain)


def links(page: Path) -> list[str]:
    found = LINK.findall(prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{ids(page)}: {link}: no such file"
        if anchor:
            assert anchor in anchors(target), f"{ids(page)}: {link}: no such heading"


def test_every_page_of_the_documentation_is_in_its_navigation() -> None:
    def files(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict | list):
            for part in entry.values() if isinstance(entry, dict) else entry:
                yield from files(part)

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs)) for page in (*docs.rglob("*.md"), *docs.glob("*.html"))}
    assert set(files(site["nav"])) == pages
    assert site["strict"] is True


def test_the_readme_is_one_screen_and_leads_to_every_written_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90
    linked = {(ROOT / link).resolve() for link in links(ROOT / "README.md")}
    pages = {page for page in WRITTEN if page.parent.name == "docs"}
    assert linked >= pages - {ROOT / "docs" / "index.md"}
    assert "scripts/test.sh" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", WRITTEN, ids=ids)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for name in {*CONFIG.findall(text), *FILE.findall(text)}:
        path = ROOT / name.rstrip(".")
        assert path.exists() or path.with_suffix(".py").exists(), f"{ids(page)}: no {name}"


def fields() -> set[str]:
    """The fields and sections that --config takes, of a run and of a grid."""

    def below(config: ConfigDict, prefix: str = "") -> Iterator[str]:
        for name, value in config.items():
            yield prefix + name
            if isinstance(value, ConfigDict):
                yield from below(value, f"{prefix}{name}.")

    names = ("configs.base", "configs.tables.grid")
    return {
        name for module in names for name in below(importlib.import_module(module).get_config())
    }


@pytest.mark.parametrize("page", WRITTEN, ids=ids)
def test_fields_that_are_named_exist(page: Path) -> None:
    named = {name.removeprefix("overrides.") for name in FIELD.findall(page.read_text())}
    assert named <= fields()


def exists(name: str) -> bool:
    """Whether a dotted name is a module of jaxft or something in one."""
    found: object = jaxft
    path = "jaxft"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        # The package's own names first: jaxft.plan is a function, jaxft.train a module.
        if hasattr(found, part):
            found = getattr(found, part)
        elif hasattr(found, "__path__") and importlib.util.find_spec(path) is not None:
            found = importlib.import_module(path)
        else:
            return False
    return True


@pytest.mark.parametrize("page", WRITTEN, ids=ids)
def test_names_of_jaxft_that_are_mentioned_exist(page: Path) -> None:
    assert [name for name in sorted(set(NAME.findall(page.read_text()))) if not exists(name)] == []


@pytest.mark.parametrize("page", WRITTEN, ids=ids)
def test_python_in_the_pages_is_sound(page: Path) -> None:
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    ):
        compile(code, f"{ids(page)}, block {number}", "exec")


def test_the_citation_is_of_this_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == jaxft.__version__ == project["version"]
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")


def test_the_changelog_has_the_version_s_changes() -> None:
    """A version that was released has a heading of its own; until then all is unreleased."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    assert re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[:3] == [
        "Added",
        "Changed",
        "Fixed",
    ]


def test_workflows_run_scripts_of_this_repository() -> None:
    """CI has no commands of its own: whatever it runs can be run here."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    scripts = [step["run"] for step in steps if "run" in step]
    assert scripts == [".ci/run", "scripts/docs.sh", "scripts/wheel.sh", "scripts/audit.sh"]
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} cannot be executed"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[0] for hook in hooks] == ["ruff", "ruff", "mypy"]
