"""The model card of an export: a run's card with another library's name, tags and snippet.

card = export_card("peft", "lora", "roberta-base", results, command="python -m jaxft.train ...")
"""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from jaxft.reporting.markup import fenced
from jaxft.reporting.model_card import Published, is_hub_id, model_card

PEFT = """
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

config = AutoConfig.from_pretrained("DIR")  # the base model's, with the labels
base = AutoModelForSequenceClassification.from_pretrained("BASE", config=config)
model = PeftModel.from_pretrained(base, "DIR").eval()
inputs = AutoTokenizer.from_pretrained("DIR")("a text", return_tensors="pt")
logits = model(**inputs).logits
"""
ADAPTERHUB = """
from adapters import AutoAdapterModel
from transformers import AutoTokenizer

model = AutoAdapterModel.from_pretrained("BASE").eval()
model.load_adapter("DIR", set_active=True, use_safetensors=True)  # with its head
inputs = AutoTokenizer.from_pretrained("DIR")("a text", return_tensors="pt")
logits = model(**inputs).logits
"""
TRANSFORMERS = """
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("DIR").eval()
inputs = AutoTokenizer.from_pretrained("DIR")("a text", return_tensors="pt")
logits = model(**inputs).logits
"""
JAXFT = """
import jaxft

jaxft.load("DIR").predict(["a text"])
"""
# format -> the library's name on the hub, its tags, and how to load the files.
LIBRARIES = {
    "peft": ("peft", ("peft", "transformers"), PEFT),
    "adapterhub": ("adapter-transformers", ("adapter-transformers",), ADAPTERHUB),
    "transformers": ("transformers", ("transformers",), TRANSFORMERS),
    "jaxft": ("jaxft", ("jax",), JAXFT),
}


def export_card(
    kind: str, method: str, base: str, results: Mapping[str, Any] | None, *, command: str
) -> str:
    """Returns the card, Markdown after a YAML head.

    Args:
      kind: of the export, a key of `LIBRARIES`.
      base: the base model's name.
      results: the run's results.json; None if the model comes from elsewhere.
      command: the command line that repeats the run.
    """
    library, tags, snippet = LIBRARIES[kind]
    lines = snippet.strip().replace("BASE", base)
    use = "`DIR` is the directory of this card, or its name on the hub.\n\n" + fenced(
        "python", lines
    )
    if results is not None:
        return model_card(results, command=command, published=Published(library, tags, use))
    data = ModelCardData(
        library_name=library,
        pipeline_tag="text-classification",
        base_model=base if is_hub_id(base) else None,
        tags=["jaxft", *tags, "text-classification", method],
    )
    text = f"`{base}` with the method `{method}`, converted by jaxft."
    return f"---\n{data.to_yaml()}\n---\n\n# {method} on {base}\n\n{text}\n\n## Use\n\n{use}\n"
