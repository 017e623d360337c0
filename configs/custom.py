"""Your own data: LoRA on files or on a dataset of the hub.

    python -m jaxft.train --config configs/custom.py --config.data.dir=my_data
    python -m jaxft.train --config configs/custom.py:glue_sst2
    python -m jaxft.train --config configs/custom.py:glue_stsb

DIR contains {train,dev,test}.{jsonl,csv,tsv,parquet}; a missing split is held out of train.
"""

from ml_collections import ConfigDict

from configs.base import get_config as base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config for files, or, as custom.py:glue_sst2, for a hub dataset."""
    config = base()
    config.task = "custom"
    config.method.name = "lora"
    config.optim.learning_rate = 2e-3
    config.epochs = 5

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
