"""Every synopsis of a module's docstring runs, and so does the Python of README.md and docs/.

A synopsis is an indented block, or a paragraph that is Python. Python is executed with the module's
names and those of tests/stage.py. The options and fields of a command line go through the command's
own parser. A block that is neither fails.
"""

import ast
import importlib
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
from stage import Stage, write_files

from jaxft import cli, plugins
from jaxft.config import make_importable
from jaxft.data.tasks import registry
from jaxft.errors import InputError
from jaxft.peft import method

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"(?:python -m jaxft\.|jaxft )([\w.]+)")
# What is too large for a test, or not here, and what takes its place.
SMALLER = {
    '"./minilm"': '"tiny"',
    '"./checkpoints/mine"': '"tiny"',
    'locate("roberta-base")': 'locate("tiny")',
    'plan("roberta-base"': 'plan("tiny"',
    '"--config.model.name=minilm"': '"--config.model.name=tiny"',
    'plugins=("magnitude",)': 'plugins=("magnitude",), epochs=1, max_length=16',
    'method="lora")': 'method="lora", max_length=16)',
    'method="lora", epochs=8)': 'method="lora", max_length=16)',
    '"lora", seeds=(1, 2, 3)': '"lora", seeds=(1, 2), epochs=1, max_length=16',
    # One run of a grid.
    'methods=["full", "lora"]': 'methods=["head"]',
    '["minilm"], ["full", "lora"],': '["tiny"], ["head"], epochs=1, max_length=16,',
    "seeds=(0, 1, 2)": "seeds=(0,)",
    "    epochs=8,\n": "    epochs=1,\n    max_length=16,\n",
    'workdir="runs/acl"': 'workdir="runs/grid"',
    'compare("runs/acl")': 'compare("runs/grid")',
    '"cluster": "slurm"': '"cluster": "local"',
    '"h100:8"': '"cpu:1"',
    '"h100,v5e:2x4"': '"cpu:1"',
    '"runs/acl_sup-lora-minilm-seed0-1a2b3c"': '"runs/acl"',
    'hub="glue:sst2", splits={"test": "validation"}, columns=Columns(text="sentence")': (
        'data_dir="reviews.csv"'
    ),
    '"minilm"': '"tiny"',
    # A run on single texts.
    '"runs/restaurant"': '"runs/acl"',
    '("service", "It was slow.")': '"It was slow."',
    '("food", "Great food.")': '"Great food."',
}


class Synopsis(NamedTuple):
    where: str
    text: str


def paragraphs(docstring: str) -> Iterator[tuple[str, bool]]:
    """Yields (text, whether it is indented); indented ones that follow each other are one."""
    found: list[tuple[str, bool]] = []
    for part in re.split(r"\n\s*\n", docstring):
        is_indented = all(line.startswith("    ") for line in part.splitlines())
        text = textwrap.dedent(part)
        if is_indented and found and found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n\n{text}", True)
        else:
            found.append((text, is_indented))
    yield from found


def is_python(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except SyntaxError:
        return False


def synopses(source: str, where: str) -> Iterator[Synopsis]:
    """The synopses of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(source))
    for text, is_indented in paragraphs(docstring) if docstring else ():
        # A paragraph of one word, or of words with commas, is prose.
        is_code = is_python(text) and re.search(r"[(=\[]", text) is not None
        if is_indented or is_code or COMMAND.match(text):
            yield Synopsis(where, text)


def modules() -> Iterator[Synopsis]:
    for file in sorted((ROOT / "jaxft").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield from synopses(file.read_text("utf-8"), name)
    for file in sorted((ROOT / "configs").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        yield from synopses(file.read_text("utf-8"), name)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TITLED = re.compile(r'^```python title="(\w+\.py)"\n(.*?)^```', re.M | re.S)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def shell_of(page: Path) -> Iterator[Synopsis]:
    """The commands of jaxft in a page, of fenced and of indented blocks."""
    text = page.read_text("utf-8")
    blocks = [code for language, code in FENCE.findall(text) if language in ("bash", "sh")]
    indented = re.findall(r"(?:^ {4}.*\n)+", FENCE.sub("", text), re.M)
    for block in [*blocks, *indented]:
        joined = textwrap.dedent(block).replace("\\\n", " ")
        for line in joined.splitlines():
            if COMMAND.match(line):
                yield Synopsis(str(page.relative_to(ROOT)), line)


ALL = list(modules())
PYTHON = [one for one in ALL if is_python(one.text)]
SHELL = [one for one in ALL if COMMAND.match(one.text)]
PAGE_SHELL = list(dict.fromkeys(one for page in PAGES for one in shell_of(page)))


def name_of(synopsis: Synopsis) -> str:
    return synopsis.where


@pytest.fixture(scope="module")
def stage(quick_compilations: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("stage")
    checkpoint = directory / "tiny"
    checkpoint.mkdir()
    tiny.write_checkpoint(
        checkpoint,
        {
            "model_type": "bert",
            "vocab_size": 100,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            "type_vocab_size": 2,
            "pad_token_id": 0,
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFT_DATA", str(tiny.SAMPLES))
        patch.setenv("JAXFT_CACHE", str(directory / "cache"))
        made = Stage(directory, checkpoint)
        with made.stack:
            yield made


@pytest.fixture
def home(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the files that synopses name; what they register is forgotten."""
    write_files(tmp_path)
    for name, code in TITLED.findall((ROOT / "docs" / "extending.md").read_text("utf-8")):
        (tmp_path / name).write_text(code)
    (tmp_path / "tiny").symlink_to(stage.checkpoint)
    # What one synopsis trains, the next finds done. All but `runs/acl` and `runs/new`.
    runs = stage.directory / "runs"
    for name in ("acl", "new"):
        shutil.rmtree(runs / name, ignore_errors=True)
    shutil.copytree(stage.run, runs / "acl")
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_loaded", [])
    known = (method.METHODS, registry._TASKS, registry.CATALOGUE)
    before = [dict(names) for names in known]
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)
    for names, old in zip(known, before, strict=True):
        names.clear()
        names.update(old)


def smaller(code: str) -> str:
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    return code


def namespace_of(synopsis: Synopsis, stage: Stage) -> dict[str, Any]:
    """The names of a module, and for others that the synopsis reads those of the stage."""
    module = importlib.import_module(synopsis.where)
    names = {**vars(module), "__name__": "synopsis"}
    for node in ast.walk(ast.parse(synopsis.text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            try:
                names[node.id] = stage.value(synopsis.where, node.id)
            except KeyError:
                continue  # the module's, or the synopsis's own; otherwise it fails as it runs
            if node.id in vars(module) and (synopsis.where, node.id) not in stage.special():
                names[node.id] = vars(module)[node.id]
    return names


@pytest.mark.parametrize("synopsis", PYTHON, ids=name_of)
def test_a_synopsis_in_python_runs(synopsis: Synopsis, home: Path, stage: Stage) -> None:
    if synopsis.where == "jaxft.models.transformers_flax":
        pytest.importorskip("transformers.models.bert.modeling_flax_bert")
    names = namespace_of(synopsis, stage)
    shown = re.search(r"^\s*# InputError: (.*?)(?:\.\.\.)?$", synopsis.text, re.M)
    code = compile(smaller(synopsis.text), f"synopsis of {synopsis.where}", "exec")
    if not shown:
        exec(code, names)
        return
    with pytest.raises(InputError) as error:
        exec(code, names)
    assert str(error.value).startswith(shown[1].strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, home: Path) -> None:
    """The blocks of a page share their names, as in a notebook."""
    make_importable()  # for a config file's `from configs.base import ...`
    names: dict[str, Any] = {}
    for language, code in FENCE.findall(page.read_text("utf-8")):
        if language == "python":
            exec(compile(smaller(code), page.name, "exec"), names)


def arguments_of(command: str) -> list[str]:
    """The arguments of a command line, all optional ones among them, with values for placeholders.

    `[--workdir DIR]` and `a|b` become `--workdir DIR` and `a`; `...` and comments are dropped.
    """
    line = re.sub(r"\s#.*", "", command).replace("[--config.FIELD=VALUE ...]", "")
    line = line.replace("[", " ").replace("]", " ").replace("...", " ")
    line = re.sub(r"\{(\w+)(,\w+)*\}", r"\1", line)
    line = re.sub(r"\|[\w|]+", "", line)
    line = re.sub(r"=N\b", "=1", line).replace("SECONDS", "60")
    return shlex.split(line)


def check_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asserts that a command takes all of these options; it runs nothing.

    An unknown option at the end stops it: the message must be about this one alone.
    """
    found = COMMAND.match(command)
    assert found
    name = "data.tasks.__main__" if found[1] == "data.tasks" else found[1]
    module = importlib.import_module(f"jaxft.{name}")
    argv = [found[1], *arguments_of(command[found.end() :]), "--no_such_option"]
    sys.modules.pop("config_config", None)  # ml_collections keeps the last config file
    if found[1] == "data.tasks":  # with a parser of its own
        with pytest.raises(SystemExit):
            module.main(argv[1:])
    else:
        assert cli.guarded(module.main, argv) == 2
    said = capsys.readouterr().err
    assert re.search(r"no_such_option|unrecognized arguments: --no_such_option$", said), said
    assert said.count("'") <= 2, said


@pytest.mark.parametrize("synopsis", SHELL, ids=name_of)
def test_a_synopsis_of_a_command_is_parsed(
    synopsis: Synopsis, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A line that starts with spaces goes on with the one before.
    for line in re.sub(r"\n\s+", " ", synopsis.text).splitlines():
        check_command(line, capsys)


@pytest.mark.parametrize("synopsis", PAGE_SHELL, ids=lambda one: f"{one.where}: {one.text[:60]}")
def test_a_command_of_a_page_is_parsed(
    synopsis: Synopsis, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_command(synopsis.text, capsys)


def test_every_synopsis_is_python_or_a_command() -> None:
    assert [one for one in ALL if one not in PYTHON and one not in SHELL] == []
    assert len(PYTHON) > 80
    assert len(SHELL) >= 5
