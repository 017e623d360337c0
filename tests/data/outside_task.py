"""A task of one file outside of the package, with a format, files and a sample of its own."""

from collections.abc import Mapping
from pathlib import Path

from jaxft.data.tasks import Example, Examples, Layout, RemoteFile, TaskSpec, register

TEXT = "up\tgood day {i}\n\ndown\tbad day {i}\n\n"
SHA256 = "0" * 64


def read(spec: TaskSpec, files: Mapping[str, Path], seed: int) -> Examples:
    """Returns the examples of files with a label, a tab and a text on every second line."""
    splits = {}
    for split, path in files.items():
        rows = enumerate(path.read_text().splitlines()[::2], start=0)
        examples = []
        for number, line in rows:
            label, text = line.split("\t")
            where = f"{path.name}:{2 * number + 1}"
            examples.append(Example(where, text, None, label, spec.name, where))
        splits[split] = tuple(examples)
    return Examples(splits, (f"drawn with {seed}",))


SPEC = register(
    TaskSpec(
        name="weather",
        title="Weather talk",
        labels=("up", "down"),
        files={"train": RemoteFile("org/weather", "c0ffee1234", "train.tabs", SHA256)},
        layout=Layout(endings=("tabs",), required=("train",)),
        epochs=2,
        read=read,
    )
)
