"""Fields of another library's config: read by type, and refused if they would change a result.

fields = Fields(Path("adapter_config.json"), {"r": 8, "bias": "none"})
fields.whole("r", 8)                                # 8
fields.only("bias", "none")                         # an InputError if it is another
fields.check_rest(known={"r", "bias"})              # an InputError if another field is set
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxft.errors import InputError

# A field that jaxft does not know is harmless as long as it is one of these.
OFF: tuple[Any, ...] = (None, False, "", [], {})


@dataclass(frozen=True)
class Fields:
    """The fields of a config file.

    Attributes:
      path: of the file, for messages.
    """

    path: Path
    content: Mapping[str, Any]

    def wrong(self, name: str, expected: str) -> InputError:
        """Returns the InputError of a field."""
        value = repr(self.content.get(name))
        value = value if len(value) < 80 else f"{value[:76]} ..."
        return InputError(f"{self.path}: {name} is {value}; expected {expected}")

    def whole(self, name: str, default: int) -> int:
        """Returns a whole number above 0."""
        value = self.content.get(name, default)
        if type(value) is not int or not 0 < value < 2**20:
            raise self.wrong(name, "a whole number above 0")
        return value

    def number(self, name: str, default: float) -> float:
        """Returns a finite number."""
        value = self.content.get(name, default)
        if type(value) not in (int, float) or not abs(value) < 1e9:
            raise self.wrong(name, "a number")
        return float(value)

    def flag(self, name: str) -> bool:
        """Returns true or false; false if the field is not there."""
        value = self.content.get(name, False)
        if type(value) is not bool:
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """Returns a string; empty if the field is not there or null."""
        value = self.content.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value or ""

    def names(self, name: str) -> list[str]:
        """Returns a list of strings; empty if the field is not there or null."""
        value = self.content.get(name)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(name, "a list of strings")
        return value

    def numbers(self, name: str) -> list[int]:
        """Returns a list of whole numbers from 0; empty if the field is not there or null."""
        value = self.content.get(name)
        value = [value] if type(value) is int else [] if value is None else value
        if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 2**20 for n in value):
            raise self.wrong(name, "a list of whole numbers")
        return value

    def object(self, name: str) -> "Fields":
        """Returns the fields of an object; none if the field is not there or null."""
        value = self.content.get(name)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(self.path, value)

    def only(self, name: str, *valid: Any) -> None:
        """Raises InputError unless the field has one of these values, or is not there."""
        if name in self.content and not any(same(self.content[name], one) for one in valid):
            expected = " or ".join(map(repr, valid))
            raise self.wrong(name, f"{expected}, which is all that jaxft computes")

    def check_rest(self, known: Iterable[str]) -> None:
        """Raises InputError if a field that is not known is set."""
        known = set(known)
        for name, value in self.content.items():
            if name not in known and not any(same(value, off) for off in OFF):
                raise self.wrong(name, "it not set: jaxft does not know this field")


def same(value: Any, other: Any) -> bool:
    """Whether two values of JSON are equal; 1 is not true."""
    return type(value) is type(other) and value == other
