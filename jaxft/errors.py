"""The exceptions that a command prints as one line: bad input exits with 2, a full disk with 74.

check_choice("lroa", ["full", "head", "lora"], "method.name")
# InputError: method.name: unknown value 'lroa'; expected one of full, head, lora; ...
"""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what is valid."""

    def __init__(self, message: str) -> None:
        r"""Shows a line break as \n, and so whatever is not printable: names in files may be so."""
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class OutputError(OSError):
    """A file could not be written. The message is one line: which file, and why."""


def nearest(value: object, valid: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the valid name nearest to `value`, or an empty string."""
    by_lower = {name.lower(): name for name in valid}
    given = str(value).lower()
    close = difflib.get_close_matches(given, list(by_lower), n=1, cutoff=0.5)
    # A short name that starts with another letter is another name: dora is not a misspelt lora.
    if close and len(given) < 6 and given[:1] != close[0][:1] and sorted(given) != sorted(close[0]):
        return ""
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def check_choice(value: str, valid: Iterable[str], field: str) -> str:
    """Returns `value` if it is one of `valid`.

    Raises:
      InputError: naming the field, the valid names and the nearest one.
    """
    names = list(valid)
    if value not in names:
        hint = nearest(value, names)
        raise InputError(
            f"{field}: unknown value {value!r}; expected one of {', '.join(names)}{hint}"
        )
    return value


def one_line(error: object, most: int = 150) -> str:
    """What another library says, in one printable line; dots are in place of more characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    # It may quote a byte of a broken file.
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= most else f"{text[:most]}..."
