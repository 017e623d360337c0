"""Your own data: files, or a dataset of the hub, with any method.

    python -m jaxft.train --config configs/custom.py --config.data.dir=my_data
    python -m jaxft.train --config configs/custom.py:houlsby --config.data.dir=my_data
    python -m jaxft.train --config configs/custom.py:glue_sst2
    python -m jaxft.train --config configs/custom.py:glue_stsb

DIR contains {train,dev,test}.{jsonl,json,csv,tsv,parquet}; a missing split is held out of train.
"""

from ml_collections import ConfigDict

from configs.base import defaults_of
from jaxft.errors import check_choice
from jaxft.peft.methods import METHODS

GLUE = ("glue_sst2", "glue_stsb")


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config for files with a method, LoRA by default; of a GLUE task, with LoRA."""
    check_choice(arg or "lora", [*METHODS, *GLUE], "custom.py")
    config = defaults_of("custom", "lora" if arg in ("", *GLUE) else arg)

    # Names of the columns. For pairs of texts, name the second one in `pair`.
    config.data.columns.text = "text"
    config.data.columns.label = "label"
    # Label names in the order of their class index; () takes those of train, sorted.
    config.data.labels = ()
    # "auto": a label that is a list of classes makes it multi_label, any other is one class.
    # Numbers as targets are asked for: "regression".
    config.objective = "auto"
    # Between the classes of a text in a CSV or TSV file, e.g. ";"; JSON and parquet have lists.
    config.data.label_separator = ""

    if arg == "glue_sst2":
        # A hub dataset by its name: splits train, validation and test, all of them labelled.
        config.data.hub = "SetFit/sst2"
        config.data.columns.label = "label_text"
    if arg == "glue_stsb":
        # Pairs of sentences with a similarity from 0 to 5; GLUE's test split has no labels.
        config.data.hub = "nyu-mll/glue:stsb"
        config.data.splits.test = "validation"
        config.data.columns.text, config.data.columns.pair = "sentence1", "sentence2"
        config.objective = "regression"
    return config
