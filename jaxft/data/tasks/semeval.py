"""SemEval-2014 task 4: the sentiment of an aspect term in its sentence, restaurants and laptops.

    load("restaurant_sup,laptop_sup", source="sample").labels

The data are read as JSON (one split into train, dev and test, as published) or as the XML files
that SemEval gave out, which have no dev split.
"""

import io
import xml.sax
import xml.sax.expatreader
import xml.sax.handler
import xml.sax.xmlreader
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxft.data.examples import Example
from jaxft.data.formats import Row, suffix_of
from jaxft.data.formats.row import text_field
from jaxft.data.formats.text import read_bytes
from jaxft.data.readers import ASPECT_COLUMNS, read_file, to_examples
from jaxft.data.sources import Layout, RemoteFile
from jaxft.data.splits import Splits, hold_out_split
from jaxft.data.tasks.registry import Examples, TaskSpec, register
from jaxft.errors import InputError

REPO, COMMIT = "lajiman/peft-with-hf", "359fb572619a91c606017aa6f97c785672635e7c"
LABELS = ("negative", "neutral", "positive")
DEV_SIZE = 150  # as in the published split


def read(spec: TaskSpec, files: Mapping[str, Path], seed: int) -> Examples:
    """Returns the examples by split, and notes on what was skipped or held out."""
    splits: Splits = {}
    notes: list[str] = []
    for split, path in files.items():
        if suffix_of(path) == ".xml":
            splits[split], skipped = read_semeval_xml(path, task=spec.name, labels=spec.labels)
            notes += skipped
        else:
            splits[split] = read_file(
                path, task=spec.name, columns=spec.columns, labels=spec.labels
            )
    if suffix_of(files["train"]) == ".xml" and "dev" not in splits:
        train = splits["train"]
        size = min(DEV_SIZE, max(1, len(train) // 10))
        splits["train"], splits["dev"], note = hold_out_split(train, "dev", size, seed)
        notes.append(note)
    return Examples(splits, tuple(notes))


def read_semeval_xml(
    path: Path, *, task: str, labels: Sequence[str]
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Returns the examples of a SemEval-2014 task 4 XML file and notes on what was skipped.

    Skipped are terms of polarity `conflict` and sentences without a term.

    Raises:
      InputError: naming file and line.
    """
    rows, without_term = rows_semeval_xml(path)
    kept = [row for row in rows if row.fields.get("polarity") != "conflict"]
    notes = []
    if len(kept) < len(rows):
        notes.append(f"{path.name}: terms of polarity 'conflict' skipped: {len(rows) - len(kept)}")
    if without_term:
        notes.append(f"{path.name}: sentences without a term skipped: {without_term}")
    if not kept:
        raise InputError(f"{path}: no aspect term with a polarity in this file")
    return to_examples(kept, task=task, columns=ASPECT_COLUMNS, labels=labels), tuple(notes)


def rows_semeval_xml(path: Path) -> tuple[list[Row], int]:
    """Returns a row (id, term, sentence, polarity) per aspect term, and the sentences without one.

    Raises:
      InputError: naming file and line.
    """
    handler, parser = _SemEvalHandler(path), _StrictParser(path)
    parser.setContentHandler(handler)
    try:
        parser.parse(io.BytesIO(read_bytes(path)))
    except xml.sax.SAXParseException as error:
        line = error.getLineNumber() or 1
        raise InputError(f"{path}:{line}: broken XML: {error.getMessage()}") from None
    except (LookupError, ValueError) as error:  # of the encoding that the first line declares
        raise InputError(f"{path}:1: broken XML: {error}; convert it to UTF-8") from None
    return handler.rows, handler.without_term


class _StrictParser(xml.sax.expatreader.ExpatParser):
    """Refuses what a document takes from elsewhere; expat alone would leave it out silently.

    What is declared in the document itself is expanded, within expat's limits.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def reset(self) -> None:
        super().reset()
        parser = self._parser  # type: ignore[attr-defined]  # no part of typeshed's class
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._declared

    def external_entity_ref(self, *names: str | None) -> int:
        *_, sysid, pubid = names
        raise self._refused(f"an entity from {sysid or pubid!r} is not read; write its text out")

    def skipped_entity_handler(self, name: str, is_parameter: bool) -> None:
        raise self._refused(f"undefined entity {'%' if is_parameter else '&'}{name};")

    def _doctype(self, name: str, sysid: str | None, pubid: str | None, *_: bool) -> None:
        if sysid is not None or pubid is not None:
            raise self._refused(f"DOCTYPE {name}: {sysid or pubid!r} is not read; leave it out")

    def _declared(self, name: str, is_parameter: bool, *_: object) -> None:
        # After a reference to one, expat passes over undefined entities in attributes.
        if is_parameter:
            raise self._refused(f"parameter entity %{name}; is not supported")

    def _refused(self, reason: str) -> InputError:
        return InputError(f"{self._path}:{self.getLineNumber() or 1}: {reason}")


class _SemEvalHandler(xml.sax.handler.ContentHandler):
    """Collects rows on the way through <sentence id> <text> <aspectTerm term polarity>."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[Row] = []
        self.without_term = 0
        self._locator: xml.sax.xmlreader.Locator | None = None
        self._sentence_id = ""
        self._sentence: list[str] = []
        self._terms: list[Row] = []
        self._in_text = False

    def setDocumentLocator(self, locator: xml.sax.xmlreader.Locator) -> None:  # noqa: N802 (SAX's name)
        self._locator = locator

    def startElement(self, name: str, attrs: xml.sax.xmlreader.AttributesImpl) -> None:  # noqa: N802 (SAX's name)
        line = (self._locator.getLineNumber() if self._locator else None) or 1
        if self._in_text:  # what follows it would be left out
            raise InputError(f"{self.path}:{line}: expected text alone in <text>, got <{name}>")
        row = Row(str(self.path), line, dict(attrs.items()))
        if name == "sentence":
            self._sentence_id, self._sentence, self._terms = text_field(row, "id"), [], []
        elif name == "aspectTerm":
            self._terms.append(row)
        self._in_text = name == "text"

    def characters(self, content: str) -> None:
        if self._in_text:
            self._sentence.append(content)

    def endElement(self, name: str) -> None:  # noqa: N802 (SAX's name)
        self._in_text = False
        if name != "sentence":
            return
        self.without_term += not self._terms
        sentence = "".join(self._sentence)
        for number, term in enumerate(self._terms):
            own = {"id": f"{self._sentence_id}_{number}", "sentence": sentence}
            self.rows.append(Row(term.path, term.line, {**term.fields, **own}))


def _spec(
    name: str,
    title: str,
    folder: str,
    sha256: Mapping[str, str],
    xml_names: Mapping[str, str],
    epochs: int,
) -> TaskSpec:
    return TaskSpec(
        name=name,
        title=title,
        labels=LABELS,
        files={
            split: RemoteFile(REPO, COMMIT, f"data/{folder}/{split}.json", digest)
            for split, digest in sha256.items()
        },
        columns=ASPECT_COLUMNS,
        layout=Layout(endings=("json", "jsonl", "csv", "tsv", "parquet", "xml"), names=xml_names),
        corpus="SemEval-2014",
        epochs=epochs,
        read=read,
    )


register(
    _spec(
        "restaurant",
        "SemEval-2014 restaurants",
        "SemEval14-res",
        {
            "train": "9a51a1b32c7fa487e9bdf98b594b9e8d757ab8a7eb5023eb2d03902e7cbab6f9",
            "dev": "e3a562ffdadd9d781e9d54a1b022c07c19ed7a992c99f5cf1f2c6050018af4ac",
            "test": "588d3f04badf0b4515686346f663cd8f541b3e15adc801e9968255b80d595a9e",
        },
        {"train": "Restaurants_Train_v2.xml", "test": "Restaurants_Test_Gold.xml"},
        epochs=3,
    )
)
register(
    _spec(
        "laptop",
        "SemEval-2014 laptops",
        "SemEval14-laptop",
        {
            "train": "0119c0eed699c82472fb02d9db2a874108c2a494b94fa2b91cf4f6b2049454b3",
            "dev": "0f7931529b35b5a1858b85a9f53ad1ba941ed85b78d2b51e86ba5f289815de1b",
            "test": "e9683849f26347a1b6e9302fb89de2960ed16a9765147e817a0538d56dc79b6e",
        },
        {"train": "Laptop_Train_v2.xml", "test": "Laptops_Test_Gold.xml"},
        epochs=5,
    )
)
