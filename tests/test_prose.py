"""Words that this project's prose once used in ways that no English-speaking engineer would.

Checked are docstrings, comments, messages and documents. A word is here only if it has no good use
in them: "behind" was "after", "so many" a number, and a setting was "told" to a function.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Pattern -> what to write instead.
BANNED = {
    r"(stands?|standing)(?! for)": "is, occurs, is written",
    r"lies?|lying": "is, is stored, is placed",
    r"(is|are|was|were|be) told": "receives, is configured",
    r"tells? (apart|from others)": "distinguishes",
    r"alike": "the same, equally, both",
    r"(?<!left )behind": "after",
    r"in vain": "without success",
    r"for want of": "because there is no",
    r"(so|as) many(?! as)": "this number of, the same number of",
    r"go(es)? on from": "continues from",
    r"process of the run's": "a process of the run",
}
PATHS = [
    *sorted((ROOT / "jaxft").rglob("*.py")),
    *sorted((ROOT / "configs").rglob("*.py")),
    *sorted(p for p in (ROOT / "scripts").rglob("*.*") if p.suffix != ".pyc"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("*.md")),
]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of the comments and strings of a Python file, or the lines of another."""
    source = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(source)):
        # A string without a space is a name or a key.
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def found_in(text: str) -> Iterator[str]:
    """Yields a line for each banned word in a text; code in `backticks` is not prose."""
    plain = re.sub(r"`[^`]*`", "", text)
    for pattern, better in BANNED.items():
        for match in re.finditer(rf"\b({pattern})\b", plain, re.IGNORECASE):
            yield f"{match[0]!r}; write: {better}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_has_none_of_the_banned_words(path: Path) -> None:
    problems = [
        f"{path.relative_to(ROOT)}:{line}: {problem}"
        for line, text in prose(path)
        for problem in found_in(text)
    ]
    assert problems == []


def test_the_check_finds_what_it_is_for() -> None:
    assert list(found_in("the bias stands in the table")) == [
        "'stands'; write: is, occurs, is written"
    ]
    assert list(found_in("the loop is told the rate")) != []
    assert list(found_in("as many as there are; standard; `behind`")) == []
