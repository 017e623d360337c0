"""jaxft_run.json: what jaxft knows of a run and other libraries' files have no field for.

content = notes_of(settings, {})                 # beside an export's files
notes = read_notes(directory)                    # {} where others wrote the files
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.errors import check_choice
from jaxft.peft.interop.fields import Fields
from jaxft.peft.interop.files import json_file, read_json

NOTES = "jaxft_run.json"
# Fields of the settings of `jaxft.models.trained`.
SHARED = (
    *("task", "baseline", "pair", "columns", "label_separator"),
    *("buckets", "max_length", "eval_batch_size"),
)
DIGESTS = "base_sha256"  # of the base model, which is checked again


def notes_of(settings: Mapping[str, Any], digests: Mapping[str, str]) -> bytes:
    """Returns jaxft_run.json of a run.

    Args:
      settings: of `jaxft.models.trained`.
      digests: of the base model's files; empty for a whole model, which has none.
    """
    kept = {name: settings[name] for name in SHARED if name in settings}
    return json_file(kept | ({DIGESTS: dict(digests)} if digests else {}))


def read_notes(directory: Path) -> dict[str, Any]:
    """Returns jaxft_run.json, what jaxft wrote of the run beside another library's files.

    Raises:
      InputError: a field has another type.
    """
    if not (directory / NOTES).exists():
        return {}
    fields = Fields(directory / NOTES, read_json(directory, NOTES))
    for name in fields.content:
        check_choice(name, (*SHARED, DIGESTS), str(fields.path))
    for name in ("task", "label_separator"):
        fields.text(name)
    for name in ("max_length", "eval_batch_size"):
        fields.whole(name, 1)
    fields.flag("pair")
    if not all(0 < bucket < 2**20 for bucket in fields.numbers("buckets")):
        raise fields.wrong("buckets", "lengths above 0")
    for name in ("columns", DIGESTS):
        own = fields.object(name)
        for key in own.content:
            own.text(key)
    baseline = fields.content.get("baseline")
    if baseline is not None:
        if not isinstance(baseline, list):
            raise fields.wrong("baseline", "a list of numbers")
        numbers = Fields(fields.path, {str(n): x for n, x in enumerate(baseline)})
        for number in numbers.content:
            numbers.number(number, 0.0)
    return dict(fields.content)
