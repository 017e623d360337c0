"""Fine-tune one model with the Hugging Face Trainer on torch: the benchmark's peer.

    OMP_NUM_THREADS=2 python scripts/benchmark/peer.py \
        --data data/restaurant --model models/all-MiniLM-L6-v2 \
        --method lora --seed 0 --output peer-lora-0.json

Methods are `full` and `head` (transformers alone; the head with its pooler), `lora`, `lora_top2`
(peft, the latter in the top two layers) and `houlsby` (adapters). The input is the pair (term,
sentence) of restaurant's files, {train,dev,test}.json, or the text of {train,dev,test}.jsonl. The
output is one JSON file with the test metrics of the last weights (`test_last`) and of the epoch
with the best macro-F1 on dev (`test_best`), as jaxft has them. `train_seconds` is the
wall time of training without the evaluations on dev, `start_seconds` the time from the start of
the process to the first step, `tokens` those that were trained on, without padding. Nothing else is
written to disk.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from peft import LoraConfig, TaskType, get_peft_model
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

RESTAURANT = ("negative", "neutral", "positive")
LEARNING_RATES = {"full": 1e-4, "head": 1e-3, "lora": 1e-3, "lora_top2": 1e-3, "houlsby": 5e-4}
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["query", "value"]}
BOTTLENECK = 64
MAX_LENGTH = 128
EVAL_BATCH_SIZE = 64
SCHEDULE = {
    "warmup_ratio": 0.06,
    "lr_scheduler_type": "linear",
    # Trainer's default differs between versions (fused or not), so it is named here.
    "optim": "adamw_torch",
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
}

Example = dict[str, Any]
Splits = dict[str, list[Example]]
Metrics = dict[str, Any]


def read_rows(path: Path) -> tuple[list[list[str]], list[str]]:
    """Read one split: its texts, in two columns if they are pairs, and the labels by name."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [[row["text"] for row in rows]], [row["label"] for row in rows]
    rows = list(json.loads(path.read_text(encoding="utf-8")).values())
    pairs = [[row["term"] for row in rows], [row["sentence"] for row in rows]]
    return pairs, [row["polarity"] for row in rows]


def read_splits(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Splits, tuple[str, ...]]:
    """Read the splits of a folder, and the names of the classes."""
    ending = "jsonl" if (folder / "train.jsonl").exists() else "json"
    found = {name: read_rows(folder / f"{name}.{ending}") for name in ("train", "dev", "test")}
    labels = RESTAURANT if ending == "json" else tuple(sorted(set(found["train"][1])))
    return {name: encode(*rows, labels, tokenizer) for name, rows in found.items()}, labels


def encode(
    texts: list[list[str]],
    names: list[str],
    labels: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Example]:
    """Tokenize texts or pairs; padding is left to the collator."""
    encoded = tokenizer(
        *texts,
        truncation=True,
        max_length=MAX_LENGTH,
        # MiniLM's tokenizer.json asks for padding to 128; False turns that off.
        padding=False,
    )
    return [
        {key: values[i] for key, values in encoded.items()} | {"labels": labels.index(name)}
        for i, name in enumerate(names)
    ]


def add_lora(model: torch.nn.Module, layers: list[int] | None = None) -> torch.nn.Module:
    options = {**LORA, "layers_to_transform": layers}
    return get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, **options))


def add_lora_top2(model: torch.nn.Module) -> torch.nn.Module:
    top = model.config.num_hidden_layers
    return add_lora(model, [top - 2, top - 1])


def freeze_body(model: torch.nn.Module) -> torch.nn.Module:
    """Freeze all but the classifier and the pooler."""
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad = name.startswith("pooler.")
    return model


def add_houlsby(model: torch.nn.Module) -> torch.nn.Module:
    """Insert two bottlenecks a layer and freeze all but these and the classifier."""
    import adapters  # here: the other methods need not wait for it

    config = adapters.DoubleSeqBnConfig(reduction_factor=model.config.hidden_size / BOTTLENECK)
    adapters.init(model)
    model.add_adapter("houlsby", config=config)
    # Freezes the backbone only; the classifier is outside it and stays trainable.
    model.train_adapter("houlsby")
    return model


def build_model(directory: Path, method: str, labels: int) -> torch.nn.Module:
    model = AutoModelForSequenceClassification.from_pretrained(
        directory, num_labels=labels, dtype=torch.float32
    )
    insert = {
        "full": lambda same: same,
        "head": freeze_body,
        "lora": add_lora,
        "lora_top2": add_lora_top2,
        "houlsby": add_houlsby,
    }
    return insert[method](model)


def compute_metrics(prediction: EvalPrediction) -> Metrics:
    predicted = np.argmax(prediction.predictions, axis=-1)
    gold = prediction.label_ids
    classes = list(range(prediction.predictions.shape[-1]))
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        # A class that is never predicted counts as 0, and without a warning an epoch.
        "macro_f1": float(
            f1_score(gold, predicted, labels=classes, average="macro", zero_division=0)
        ),
        "collapsed": len(np.unique(predicted)) == 1,
    }


def trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


class KeepBest(TrainerCallback):
    """Keep the trained weights of the best dev epoch in memory, and the time that dev took."""

    def __init__(self) -> None:
        self.epoch = 0
        self.macro_f1 = -1.0
        self.state: dict[str, torch.Tensor] = {}
        self.dev: list[Metrics] = []
        self.eval_seconds = 0.0
        self.start_seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.start_seconds = time.time() - psutil.Process().create_time()

    def on_evaluate(
        self,
        *_: Any,  # Trainer's arguments, state and control
        metrics: Metrics,
        model: torch.nn.Module,
        **__: Any,
    ) -> None:
        self.dev.append(plain(metrics, "eval"))
        self.eval_seconds += metrics["eval_runtime"]
        # Strictly better: of equal epochs the earlier one is kept.
        if metrics["eval_macro_f1"] > self.macro_f1:
            self.macro_f1 = metrics["eval_macro_f1"]
            self.epoch = len(self.dev)
            self.state = trained_state(model)


def plain(metrics: Metrics, prefix: str) -> Metrics:
    """Take the three metrics that are reported out of what Trainer returns."""
    return {name: metrics[f"{prefix}_{name}"] for name in ("accuracy", "macro_f1", "collapsed")}


def training_arguments(options: argparse.Namespace, scratch: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=scratch,
        seed=options.seed,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=EVAL_BATCH_SIZE,
        learning_rate=options.learning_rate,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **(grouping() if options.group_by_length else {}),
        **SCHEDULE,
    )


def grouping() -> dict[str, Any]:
    """Batches of similar lengths, by the name that this version of transformers has for it."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    if "train_sampling_strategy" in names:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def run(options: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """Train once, and test the last weights and then the best ones."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    splits, labels = read_splits(options.data, tokenizer)
    # Before the model: the head's and the method's initial values depend on the seed.
    set_seed(options.seed)
    model = build_model(options.model, options.method, len(labels))
    best = KeepBest()
    trainer = Trainer(
        model=model,
        args=training_arguments(options, scratch),
        train_dataset=splits["train"][: options.limit],
        eval_dataset=splits["dev"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        callbacks=[best],
    )
    started = time.perf_counter()
    trainer.train()
    train_seconds = time.perf_counter() - started - best.eval_seconds
    # predict() and not evaluate(), which would call KeepBest with test's metrics.
    test_last = plain(trainer.predict(splits["test"]).metrics, "test")
    test_best = test_last
    if best.epoch != options.epochs:  # as in jaxft, the same weights are not tested twice
        model.load_state_dict(best.state, strict=False)
        test_best = plain(trainer.predict(splits["test"]).metrics, "test")
    return {
        "test_last": test_last,
        "test_best": test_best | {"epoch": best.epoch},
        "dev": best.dev,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "trained_parameters": sum(tensor.numel() for tensor in best.state.values()),
        "train_seconds": round(train_seconds, 2),
        "start_seconds": round(best.start_seconds, 2),
        "tokens": options.epochs * sum(len(one["input_ids"]) for one in trainer.train_dataset),
    }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    own = {"lora": LORA, "lora_top2": LORA, "houlsby": {"bottleneck": BOTTLENECK}}
    method = own.get(options.method, {})
    return {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "limit": options.limit,
        "group_by_length": options.group_by_length,
        "max_length": MAX_LENGTH,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        **SCHEDULE,
        **method,
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the splits")
    parser.add_argument("--model", type=Path, required=True, help="folder of the pretrained model")
    parser.add_argument("--method", choices=tuple(LEARNING_RATES), required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, help="default: the method's own")
    parser.add_argument("--limit", type=int, help="train on the first N examples only")
    parser.add_argument("--group_by_length", action="store_true", help="similar lengths together")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    if options.learning_rate is None:
        options.learning_rate = LEARNING_RATES[options.method]
    # transformers takes a missing folder for the name of a model on the hub.
    if not (options.model / "config.json").is_file():
        parser.error(f"--model: no config.json in {options.model}")
    return options


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory() as scratch:
        outcome = run(options, scratch)
    result = {
        "side": "peer",
        "method": options.method,
        "seed": options.seed,
        "settings": settings(options),
        **outcome,
        "versions": {
            name: metadata.version(name) for name in ("torch", "transformers", "peft", "adapters")
        },
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["test_last"]))


if __name__ == "__main__":
    main()
