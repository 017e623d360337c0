"""The table of docs/reliability.md, from the JSON of the trials.

PAGE.write_text(with_table(PAGE.read_text(), Path("docs/results/reliability")))
"""

import json
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- the table of scripts/soak -->\n", "<!-- end of the table -->\n"


def table(results: Path) -> str:
    """A row for each trial that has been begun: as promised, done so far, in the long version."""
    found = [json.loads(path.read_text()) | {"name": path.stem} for path in results.glob("*.json")]
    rows = [
        f"| {one['item']} | `{one['name']}` | {one['what']} | {one['good']} of {one['done']} "
        f"| {one['times']} |"
        for one in sorted(found, key=lambda one: (one["item"], one["name"]))
    ]
    head = "| | trial | a repetition | as promised | long version |\n|--:|---|---|--:|--:|"
    return "\n".join([head, *rows]) + "\n"


def with_table(text: str, results: Path) -> str:
    """The page with the table of these results."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{table(results)}{END}{rest.partition(END)[2]}"
