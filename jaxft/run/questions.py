"""The arguments of `jaxft memory`: its flags, and the question that they ask.

    model, argv = as_flags(["memory", "roberta-base", "--target=t4", "--fit"])
    asked = read(argv)              # the flags' values; None if only the whole command can tell
    key = question(model, argv, asked)      # of `jaxft.run.answers`

No JAX is imported.
"""

import re
from collections.abc import Callable

from absl import flags

from jaxft.errors import InputError
from jaxft.exits import is_config
from jaxft.planning import compilers, targets
from jaxft.planning.devices import DEVICES, Gpu
from jaxft.run import answers

CONFIG = "--config=configs/base.py"  # of a command that names a model alone
# Flags whose values are places to write to, and do not change the rows.
OUTPUTS = ("json", "markdown", "plot")


def own_flags() -> flags.FlagValues:
    """Returns the command's flags with their defaults."""
    values = flags.FlagValues()
    texts = {
        "method": "methods of the table, e.g. full,dora; default: the usual seven",
        "target": "devices, e.g. h100:8,v5e:2x4,cpu",
        "batch_size": "examples a step, e.g. 8,32; default: the config's",
        "length": "padded tokens of a text, e.g. 128,512; default: the config's",
        "fit": "what fits in this memory, e.g. 24GiB; alone: in the device's own",
        "json": "file for the rows as JSON",
        "markdown": "file for the table as Markdown",
        "plot": "PNG file for the bars",
    }
    for name, text in texts.items():
        flags.DEFINE_string(name, "", text, values)
    flags.DEFINE_bool("need", False, "the smallest GPU that each row fits", values)
    flags.DEFINE_bool("install", False, "download the compilers of --target first", values)
    return values


def as_flags(argv: list[str]) -> tuple[str, list[str]]:
    """Returns MODEL, and the arguments with it as a flag; `--fit` alone is `--fit=device`.

    Raises:
      InputError: there is no argument at all.
    """
    if not argv[1:]:
        raise InputError("no model; for example: jaxft memory roberta-base --method=lora")
    is_bare = [x in ("--fit", "-fit") and alone(argv, i) for i, x in enumerate(argv)]
    rest = [f"{x}=device" if bare else x for x, bare in zip(argv, is_bare, strict=True)][1:]
    has_config = any(map(is_config, rest))
    if rest[0].startswith("-"):
        needs_none = not has_config and "--install" in rest
        return "", [argv[0], *([CONFIG] if needs_none else []), *rest]
    config = [] if has_config else [CONFIG]
    return rest[0], [argv[0], *config, f"--config.model.name={rest[0]}", *rest[1:]]


def alone(argv: list[str], place: int) -> bool:
    """Whether no value follows the argument at this place."""
    return place + 1 == len(argv) or argv[place + 1].startswith("-")


def read(argv: list[str]) -> flags.FlagValues | None:
    """Returns the flags without those of the config; None if these are not valid by themselves."""
    values = own_flags()
    own = [x for x in argv if not re.match(r"--?config[.=]", x)]
    try:
        rest = values(own)
    except flags.Error:
        return None
    return values if len(rest) == 1 else None


def question(model: str, argv: list[str], asked: flags.FlagValues | None) -> str | None:
    """Returns the key of the command's answer; None if it cannot be known without JAX."""
    if not model or asked is None or CONFIG not in argv:
        return None
    settings = [x for x in argv[1:] if re.match(r"--?config[.=]", x)]
    settings = [x for x in settings if x not in (CONFIG, f"--config.model.name={model}")]
    values = {name: asked[name].value for name in asked if name not in OUTPUTS}
    return answers.question(model, settings, devices(asked), values)


def devices(asked: flags.FlagValues) -> str:
    """Returns --target; for --need every GPU if there is none."""
    gpus = [kind for kind, device in DEVICES.items() if isinstance(device, Gpu)]
    return asked.target or (",".join(gpus) if asked.need else "")


def install(asked: flags.FlagValues | None, say: Callable[[str], None]) -> bool:
    """Fetches the compilers of --target if --install is given; returns whether it is.

    Raises:
      InputError: no target is given, or it is not valid, or the download failed.
    """
    if asked is None or not asked.install:
        return False
    if not asked.target and not asked.need:
        raise InputError("--install: for which devices? for example --target=h100")
    for target in targets.parse_all(devices(asked)):
        if target.platform in compilers.PACKAGES:
            compilers.install(target.platform, say)
    return True
