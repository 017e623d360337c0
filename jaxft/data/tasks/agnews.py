"""AG News: the topic of a news item, in the CSV files of the character-level CNN paper.

load("agnews_sup", source="sample").labels
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxft.data.examples import Columns, Example
from jaxft.data.formats.row import Row, row_error, show, text_field
from jaxft.data.formats.tables import rows_csv
from jaxft.data.readers import to_examples
from jaxft.data.sources import Layout, RemoteFile
from jaxft.data.splits import Splits, split_9_to_1
from jaxft.data.tasks.registry import Examples, TaskSpec, register

REPO, COMMIT = "mhjabreel/CharCnn_Keras", "555590db4219b1243abb1918effd6a7425a2d75f"
HEADER = ("class", "title", "description")


def read(spec: TaskSpec, files: Mapping[str, Path], seed: int) -> Examples:
    """Returns the examples by split; without a train file those of the test file are split 9:1."""
    splits: Splits = {
        split: read_agnews(path, task=spec.name, labels=spec.labels)
        for split, path in files.items()
    }
    if "train" in splits:
        return Examples(splits)
    whole, name = splits["test"], files["test"].name
    train, test = split_9_to_1(whole, seed)
    note = (
        f"no train file: the {len(whole):,} examples of {name} are split 9:1 with seed {seed} "
        f"into {len(train):,} for train and {len(test):,} for test"
    )
    return Examples({**splits, "train": train, "test": test}, (note,))


def read_agnews(path: Path, *, task: str, labels: Sequence[str]) -> tuple[Example, ...]:
    r"""Returns the examples of an AG News file: no header, class index from 1, title, description.

    The text is title and description. The corpus writes a line break as a backslash (`second\team`
    was `second`, newline, `team`); it is kept, because all published results were made with it.

    Raises:
      InputError: naming file and line.
    """
    rows = []
    for row in rows_csv(path, header=HEADER):
        index = text_field(row, "class")
        if index not in [str(n + 1) for n in range(len(labels))]:
            expected = f"expected a class index from 1 to {len(labels)}"
            hint = "; is the first line a header? it must not be" if row.line == 1 else ""
            raise row_error(row, f"class: {expected}, got {show(index)}{hint}")
        text = f"{row.fields['title']} {row.fields['description']}".strip()
        fields: dict[str, object] = {"text": text, "label": labels[int(index) - 1]}
        rows.append(Row(row.path, row.line, fields))
    return to_examples(rows, task=task, columns=Columns(), labels=labels)


register(
    TaskSpec(
        name="agnews",
        title="AG News",
        labels=("World", "Sports", "Business", "Sci/Tech"),
        files={
            "train": RemoteFile(
                REPO,
                COMMIT,
                "data/ag_news_csv/train.csv",
                "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e",
                # Not downloaded (30 MB); if the user does not provide it, the test file is split.
                download=False,
            ),
            "test": RemoteFile(
                REPO,
                COMMIT,
                "data/ag_news_csv/test.csv",
                "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
            ),
        },
        layout=Layout(endings=("csv",), required=("test",)),
        read=read,
    )
)
