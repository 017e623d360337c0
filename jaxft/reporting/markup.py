r"""Escaping, and the few pieces of Markdown that a report and a model card share.

escape_markdown("a|b <i>")      # "a\\|b &lt;i>"
escape_latex("50% of & more")   # r"50\% of \& more"
"""

from collections.abc import Iterable, Sequence

from jaxft.reporting.formats import MINUS, NONE

# Character -> its LaTeX; all others are written as they are.
LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedblright{}",
        "±": r"$\pm$",
        "≤": r"$\le$",
        "…": r"\ldots{}",
        MINUS: "$-$",
        NONE: "--",
    }
)


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def escape_latex(text: str) -> str:
    """Returns one line in which nothing is a command."""
    return one_line(text).translate(LATEX)


def escape_markdown(text: str) -> str:
    """Returns one line that neither ends a table's cell nor opens a tag."""
    line = one_line(text).replace("|", "\\|")
    # Inside `code` an entity would be shown literally, and a tag has no effect.
    is_code = len(line) > 1 and line[0] == line[-1] == "`" and "`" not in line[1:-1]
    return line if is_code else line.replace("<", "&lt;").replace("`", "\\`")


def no_formula(text: str) -> str:
    """Returns a text with a leading quote if a spreadsheet would take it for a formula.

    Source: OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list of lines that are escaped already."""
    return "\n".join(f"- {line}" for line in lines)


def escaped_bullets(lines: Sequence[str]) -> str:
    """A Markdown list of plain lines."""
    return bullets(map(escape_markdown, lines))


def fenced(language: str, code: str) -> str:
    """A Markdown code block whose fence is longer than any run of backticks in the code."""
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}{language}\n{code.strip()}\n{fence}"
