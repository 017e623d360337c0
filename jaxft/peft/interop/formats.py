"""Which formats can take a trained model, by the tables of their codecs.

formats_of("lora")              # ["peft", "transformers", "jaxft"]
refuse(model, "peft", "peft has no such module")        # an InputError that names the others
"""

from jaxft.errors import InputError
from jaxft.peft.interop import adapterhub_codecs, peft_codecs
from jaxft.peft.interop.trained import Trained
from jaxft.peft.method import find

# They add no module, so that the model is one of transformers' own.
WITHOUT_MODULES = ("full", "head", "bitfit", "layernorm")


def formats_of(method: str) -> list[str]:
    """Returns the formats that can represent a method."""
    takes = {
        "peft": method in peft_codecs.CODECS,
        "adapterhub": method in adapterhub_codecs.CODECS,
        "transformers": method in WITHOUT_MODULES or find(method).merge is not None,
        "jaxft": True,
    }
    return [name for name, is_taken in takes.items() if is_taken]


def refuse(model: Trained, library: str, reason: str) -> InputError:
    """Returns the InputError of a model that a library's files cannot represent."""
    others = [name for name in formats_of(model.method) if name != library]
    choices = " or ".join(f"--format={name}" for name in others)
    return InputError(
        f"--format={library}: cannot represent method {model.method!r}: {reason}; use {choices}"
    )
