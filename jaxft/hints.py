"""One-line messages for wrong flags, each with the nearest valid one.

    unknown_flag("seed", "3", own_flags, fields)    # no flag --seed; did you mean --config.seed=3?
    bad_value("--config.seed=y: invalid literal for int() with base 10: 'y'")
    # --config.seed=y; expected a whole number

`fields` maps the name of each field that a user may mean to the name that the flag needs; they
differ for a table of a sweep, whose overrides hold the fields of a run.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from jaxft.config import defaults, field_of, nearest_field
from jaxft.errors import nearest

EXPECTED = {
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}
Fields = Mapping[str, str]


def fields_of(file: str) -> dict[str, str]:
    """Returns the fields of a file of configs/, as hints may name them.

    fields_of("base.py")["optim.clip"]          # "optim.clip"
    fields_of("tables/grid.py")["optim.clip"]   # "overrides.optim.clip"
    """
    prefix = "" if file == "base.py" else "overrides."
    of_runs = {name: f"{prefix}{name}" for name in defaults()}
    return of_runs | {name: name for name in defaults(file)}


def given(argv: Sequence[str], name: str) -> str:
    """Returns the value that the arguments give a flag; empty if they give none."""
    for i, argument in enumerate(argv):
        flag, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag == name:
            following = argv[i + 1] if i + 1 < len(argv) else ""
            return value or ("" if following.startswith("--") else following)
    return ""


def flag_message(
    error: flags.Error, argv: Sequence[str], own: Iterable[str], fields: Fields
) -> str:
    """Returns absl's message about a flag in the form of ours.

    Args:
      own: the flags of the command, without those of the config.
    """
    text = " ".join(str(error).split()).removeprefix("flag ")
    if "Traceback" in text:  # of a config file: its last line says why
        return f"--config: {given(argv, 'config')} failed: {str(error).strip().splitlines()[-1]}"
    if isinstance(error, flags.UnrecognizedFlagError):
        return unknown_flag(error.flagname, given(argv, error.flagname), own, fields)
    if isinstance(error, flags.DuplicateFlagError):
        names = [argument.lstrip("-").partition("=")[0] for argument in argv]
        twice = next((n for n in names if names.count(n) > 1 and n.startswith("config")), "config")
        return f"--{twice} is given twice"
    section = re.match(r"(--config\.[\w.]+)=.*Failed to parse .* as a ConfigDict", text)
    if section:
        return f"{section[1]} is a section; set one of its fields, e.g. {example_of(section[1])}"
    return bad_value(text)


def unknown_flag(name: str, value: str, own: Iterable[str], fields: Fields) -> str:
    """Says that there is no such flag, and which flag or field it most likely means.

    Args:
      value: what the flag was given, for the flag that the message suggests.
    """
    near = difflib.get_close_matches(name, list(own), n=1, cutoff=0.7)
    if near and name not in fields:
        return f"no flag --{name}; did you mean --{near[0]}?"
    field = field_of(name, fields)
    if field:
        return f"no flag --{name}; did you mean --config.{fields[field]}={value or 'VALUE'}?"
    hint = nearest(name, own)
    return f"no flag --{name}{hint.replace(chr(39), '--', 1).replace(chr(39), '')}"


def bad_value(text: str) -> str:
    """Returns `--config.seed=y: invalid literal for int() ...` with the type that was expected."""
    flag = text.partition(": ")[0]
    for said, expected in EXPECTED.items():
        if said in text:
            return f"{flag}; expected {expected}"
    return text


def example_of(section: str) -> str:
    """Returns `--config.model.name=minilm`, a field of a section with its default."""
    name = section.removeprefix("--config.")
    known = defaults()
    fields = [f"{name}.name", *(x for x in known if x.startswith(f"{name}.")), f"{name}.FIELD"]
    field = next((x for x in fields if x in known), fields[-1])
    return f"--config.{field}={known.get(field, 'VALUE')}"


def field_message(error: Exception, argv: Sequence[str], fields: Fields) -> str:
    """Returns ConfigDict's message about a field that it does not have as one plain line."""
    text = str(error.args[0]) if error.args else str(error)
    if isinstance(error, TypeError):
        return text.strip().splitlines()[-1]
    found = re.search(r"'(\w+)\\?'", text)
    if not found:
        return " ".join(text.split())
    # The message has only a part of the field's name; the flag has all of it.
    names = [argument.lstrip("-").partition("=")[0] for argument in argv]
    whole = [n.removeprefix("config.") for n in names if n.startswith("config.")]
    name = next((n for n in whole if found[1] in n.split(".")), found[1])
    return f"no field '{name}'{nearest_field(name.removeprefix('overrides.'), fields)}"
