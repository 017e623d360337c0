"""The objects that synopses of docstrings and pages use: one tiny run, and what it is made of.

    stage = Stage(directory, checkpoint)
    stage.value("jaxft.run.build", "config")

Every object comes from the package's own functions or from the runs in docs/results. Each is made
when a synopsis first asks for it.
"""

import gzip
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet

from jaxft import train
from jaxft.config import config_module, flags_of, set_fields, to_json
from jaxft.data import tasks
from jaxft.data.batches import make_batch
from jaxft.data.formats import Row
from jaxft.distributed import processes
from jaxft.models import backbone as backbones
from jaxft.models import hub, trained
from jaxft.models.attention import Tokens
from jaxft.models.bert import BERT
from jaxft.models.config import Compute, EncoderConfig
from jaxft.models.layers import Layer
from jaxft.models.roberta import ROBERTA
from jaxft.peft import head
from jaxft.peft.inject import Injected
from jaxft.peft.interop import peft_codecs
from jaxft.peft.method import Site
from jaxft.planning import targets
from jaxft.planning.compiled import ResidentGrowth, compiled_bytes
from jaxft.planning.devices import DEVICES
from jaxft.planning.planner import Job
from jaxft.planning.scaling import scaling
from jaxft.reporting import aggregate, pictures, summary
from jaxft.reporting.reference import PublishedRow
from jaxft.reporting.schema import read_run
from jaxft.reporting.stats import spread
from jaxft.run import build, export, results, resume, runner
from jaxft.run.compiled import compile_programs
from jaxft.run.load import load_run
from jaxft.run.phases import Phases
from jaxft.run.predictor import Predictor
from jaxft.run.setup import set_up
from jaxft.run.trained_run import load_parts
from jaxft.sweeping import expand, grid, local, progress, runs, schedule
from jaxft.sweeping.worker import Share
from jaxft.training import event_log, loop
from jaxft.training.objectives import SINGLE_LABEL
from jaxft.training.optimizer import make_optimizer
from jaxft.training.partition import label_tree, split
from jaxft.training.programs import train_program
from jaxft.training.state import init_params, init_state, init_trained
from jaxft.training.trials import Group, Trial, dropout_keys
from tests.interop.exported import write_own

RESULTS = Path(__file__).parents[1] / "docs" / "results"
TEXTS = ("We use the parser of Collins (1999).", "In future work we will see.")


def write_files(directory: Path) -> None:
    """Writes the files that synopses name into a directory."""
    labels = ["Uses", "Background"] * 10
    rows = [{"text": f"{TEXTS[i % 2]} {i}", "label": label} for i, label in enumerate(labels)]
    lines = [json.dumps(row) for row in rows]
    # Line 17 has the mistake that `jaxft.data.readers` shows.
    wrong = [*lines[:16], json.dumps({"text": "A text.", "label": "Use"}), *lines[17:]]
    table = ["text,label", *(f"{row['text']},{row['label']}" for row in rows)]
    files = {"train.jsonl": wrong, "test.jsonl": lines, "train.csv": table, "new.csv": table}
    mine = [f"text {i},{label}" for i in range(30) for label in ("bad", "good")]
    files |= {"reviews.csv": ["text,label", *mine], "texts.txt": list(TEXTS)}
    files |= {"my_method.py": [""], "my_task.py": [""]}
    for name, content in files.items():
        text = "\n".join(content) + "\n"
        (directory / name).write_text(text)
        (directory / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    columns = {name: [row[name] for row in rows] for name in ("text", "label")}
    pyarrow.parquet.write_table(pyarrow.table(columns), directory / "train.parquet")


class Stage:
    """One tiny run and its parts.

    Attributes:
      directory: for what the run writes.
      checkpoint: of the base model.
    """

    def __init__(self, directory: Path, checkpoint: Path) -> None:
        self.directory, self.checkpoint = directory, checkpoint
        self.stack = ExitStack()

    def special(self) -> set[tuple[str, str]]:
        """The names that mean something of their own in a module."""
        return set(SPECIAL)

    def value(self, module: str, name: str) -> Any:
        """Returns the object that a module's synopsis calls by a name.

        Raises:
          KeyError: there is none.
        """
        if (module, name) in SPECIAL:
            return SPECIAL[module, name](self)
        return GENERAL[name](self)

    @cached_property
    def config(self) -> Any:
        config = config_module().defaults_of("acl_sup", "lora")
        fields = {"model.name": str(self.checkpoint), "epochs": 1, "data.max_length": 16}
        set_fields(config, fields)
        config.memory.methods = ("head",)  # what is planned
        return config

    @cached_property
    def setup(self) -> Any:
        return set_up(self.config, ["train", "--config=acl_lora"])

    @cached_property
    def run(self) -> Path:
        """A finished run."""
        path = self.directory / "finished"
        assert runner.run(self.config, path, False, ["train", "--config=acl_lora"]) == 0
        return path

    @cached_property
    def programs(self) -> Any:
        return compile_programs(self.setup, keep=None, runs=1)

    @cached_property
    def frozen(self) -> Any:
        model, weights = self.model, self.setup.parts.weights
        paths = split(model.shapes, model.labels)[1]
        return init_params(model, weights, 0, self.setup.devices, paths)

    @property
    def model(self) -> Any:
        return self.setup.parts.model

    def state(self) -> Any:
        """A new one each time: a step takes its buffers."""
        setup = self.setup
        weights = setup.parts.weights
        return init_trained(self.model, setup.optimizer, weights, 0, setup.devices)

    def batch(self, length: int, rows: int = 32) -> Any:
        found = make_batch(self.setup.data["train"], np.arange(rows), rows, length)
        return {name: jnp.asarray(x) for name, x in found.items()}

    def key(self) -> Any:
        return dropout_keys(self.setup.devices, [0])

    @cached_property
    def trial(self) -> Any:
        return Trial(0, self.config.optim.learning_rate)

    def member(self) -> Any:
        """A new run's, of which one epoch is recorded."""
        path = Path("new").resolve()
        (started,) = resume.open_runs(self.setup, {self.trial: path}, self.stack)[0]
        record = read_run(self.run).results["history"]
        started.member.record["history"] = record
        started.member.record["train_s"] = 1.0
        return started.member

    @cached_property
    def logits(self) -> Any:
        evaluate = self.programs.evaluate
        return runner.logits_of(self.setup, evaluate, self.frozen, 1, "test", self.state().trained)

    @cached_property
    def used(self) -> Any:
        phases = Phases(ResidentGrowth())
        return results.used_memory(self.setup, self.programs, phases)

    @cached_property
    def results(self) -> Any:
        return read_run(self.run).results

    @cached_property
    def groups(self) -> Any:
        """The ACL-ARC groups of the grid in docs/results."""
        found = [read_run(path) for path in sorted(RESULTS.glob("minilm_grid/cells/acl_sup-*"))]
        return aggregate.make_groups(found)[0]

    @cached_property
    def report(self) -> Any:
        made = {"made": "2026-01-31 12:00 UTC", "command": "python -m jaxft.report runs"}
        return summary.summarize(self.groups, notes=[], unfinished=[], **made)

    def own(self, method: str) -> Path:
        """A trained model of a method in jaxft's own format, with random numbers in it."""
        path = self.directory / f"own-{method}"
        if not path.exists():
            write_own(path, self.checkpoint, method, rank=2, size=4)
        return path

    def trained_model(self, method: str) -> Any:
        """The same in the terms of `jaxft.peft.interop`."""
        run = load_run(self.own(method))
        return export.trained_model(run, load_parts(run))

    def exported(self, kind: str, method: str = "lora") -> Path:
        """The same as files of another library."""
        path = self.directory / f"exported-{kind}"
        if not path.exists():
            export.export(load_run(self.own(method)), kind, path)
        return path

    def job(self, target: str) -> Any:
        return Job(
            architecture=json.loads((self.checkpoint / "config.json").read_text()),
            num_labels=3,
            newly_initialised=(),
            dtype="float32",
            remat="none",
            method="lora",
            options={},
            clip=1.0,
            accumulate=1,
            batch_size=8,
            length=32,
            target=targets.parse(target),
            mesh={"seeds": 1, "data": 1, "fsdp": 1, "tensor": 1},
        )

    @cached_property
    def table(self) -> Any:
        table = config_module("tables/grid.py").get_config()
        table.model.names, table.tasks = (str(self.checkpoint),), ("acl",)
        return table

    @cached_property
    def grid_run(self) -> Any:
        """A run of a sweep, which is done: it is the finished one."""
        setting = expand.expand(self.table)[0]
        return runs.make_grid_run(setting, self.data_digests, self.model_digests, "1a2b3c")

    @cached_property
    def data_digests(self) -> Any:
        return build.split_fingerprints(self.setup.dataset)

    @cached_property
    def model_digests(self) -> Any:
        return build.model_digests(self.checkpoint)

    def sweep(self) -> Path:
        """The directory of a sweep whose only run is done."""
        workdir = Path("sweep").resolve()
        workdir.mkdir(exist_ok=True)
        if not (workdir / self.grid_run.name).exists():
            (workdir / self.grid_run.name).symlink_to(self.run)
        return workdir


def plan_rows(path: str) -> Any:
    """Rows of plans in docs/results."""
    return json.loads((RESULTS / path).read_text())


Make = Callable[[Stage], Any]
MODULES: dict[str, Any] = {
    "jax": jax,
    "jnp": jnp,
    "json": json,
    "os": os,
    "sys": sys,
    "Path": Path,
    "BERT": BERT,
    "CATALOGUE": tasks.CATALOGUE,
    "Columns": tasks.Columns,
    "DEVICES": DEVICES,
    "Injected": Injected,
    "load": tasks.load,
    "locate": hub.locate,
    "spread": spread,
    "label_tree": label_tree,
    "make_optimizer": make_optimizer,
    "init_state": init_state,
    "train_program": train_program,
    "processes": processes,
    "scaling": scaling,
    "main": train.main,
    "read_run": read_run,
    "context": multiprocessing.get_context("forkserver"),
    "read_trec": tasks.read_columns,
}
GENERAL: dict[str, Make] = {
    "partial": lambda stage: partial,
    **{name: lambda stage, value=value: value for name, value in MODULES.items()},
    "config": lambda stage: stage.config,
    "directory": lambda stage: stage.checkpoint,
    "workdir": lambda stage: stage.sweep(),
    "root": lambda stage: Path(train.__file__).parent,
    # data
    "dataset": lambda stage: stage.setup.dataset,
    "examples": lambda stage: stage.setup.dataset.train,
    "train": lambda stage: stage.setup.dataset.train,
    "encoded": lambda stage: stage.setup.data["train"],
    "data": lambda stage: stage.setup.data["train"],
    "tokenizer": lambda stage: stage.setup.parts.tokenizer,
    "step": lambda stage: 0,
    # models and methods
    "backbone": lambda stage: stage.model.backbone,
    "flax_bert": lambda stage: stage.model.backbone.module,
    "shapes": lambda stage: backbones.parameter_shapes(stage.model.backbone),
    "params": lambda stage: {**stage.state().trained, **stage.frozen},
    "insertions": lambda stage: stage.model.applied.insertions,
    "family": lambda stage: BERT,
    "site": lambda stage: Site(BERT, backbones.parameter_shapes(stage.model.backbone)),
    "kernel_DxF": lambda stage: np.arange(96, dtype=np.float32).reshape(8, 12),
    "load_run": lambda stage: load_run,
    "predictors": lambda stage: [Predictor(load_run(stage.run))] * 2,
    "paths": lambda stage: stage.model.shapes,
    "newly_initialised": lambda stage: stage.setup.parts.newly_initialised,
    "weights": lambda stage: stage.setup.parts.weights,
    "method": lambda stage: stage.model.applied,
    # training
    "model": lambda stage: stage.model,
    "mesh": lambda stage: stage.setup.devices,
    "optimizer": lambda stage: stage.setup.optimizer,
    "schedule": lambda stage: optax_constant,
    "state": lambda stage: stage.state(),
    "frozen": lambda stage: stage.frozen,
    "trained": lambda stage: stage.state().trained,
    "leaves": lambda stage: stage.state().trained,
    "forward": lambda stage: stage.model.forward,
    "run_train": lambda stage: stage.programs.train,
    "batch": lambda stage: stage.batch(stage.setup.loop_config.buckets[0]),
    "key": lambda stage: stage.key(),
    "keys": lambda stage: stage.key(),
    "own": lambda stage: (stage.key(),),
    "hidden": lambda stage: jnp.ones((2, 4, 32)),
    "members": lambda stage: [stage.member()],
    "member": lambda stage: stage.member(),
    "dev_scores": lambda stage: lambda trained: [stage.results["dev"]],
    "history": lambda stage: stage.results["history"],
    "record": lambda stage: loop.new_record(),
    "state_shapes": lambda stage: stage.setup.shapes,
    "log": lambda stage: stage.stack.enter_context(event_log.RunLog(stage.sweep(), 0)),
    "accumulate": lambda stage: 1,
    "epochs": lambda stage: 8,
    "per_epoch": lambda stage: 4,
    "labels": lambda stage: stage.model.labels,
    "labels_N": lambda stage: np.array([0, 1, 2, 2], np.int32),
    "names": lambda stage: ("negative", "neutral", "positive"),
    "baseline": lambda stage: [0, 0, 1],
    "targets": lambda stage: np.array([0, 1, 2, 2], np.int32),
    "predicted": lambda stage: np.array([0, 1, 2, 1], np.int32),
    "targets_NxC": lambda stage: np.eye(4, 3, dtype=np.float32),
    "targets_N": lambda stage: np.arange(4, dtype=np.float32),
    "logits_Nx1": lambda stage: np.arange(4, dtype=np.float32)[:, None] / 2,
    "logits_NxC": lambda stage: np.eye(4, 3, dtype=np.float32),
    # a run
    "setup": lambda stage: stage.setup,
    "env": lambda stage: stage.setup.env,
    "settings": lambda stage: trained.read_settings(stage.run / "adapter"),
    "workdirs": lambda stage: {stage.trial: Path("new").resolve()},
    "used": lambda stage: stage.used,
    "test_logits": lambda stage: {"last": stage.logits[0], "best": stage.logits[0]},
    "test_logits_NxC": lambda stage: stage.logits[0],
    "results": lambda stage: stage.results,
    # planning
    "job": lambda stage: stage.job("here:1"),
    "target": lambda stage: targets.parse("here:1"),
    "rows": lambda stage: plan_rows("memory/minilm_h100_seeds.json"),
    "row": lambda stage: plan_rows("scaling/h100x8.json")[0],
    "other_row": lambda stage: plan_rows("scaling/h100x8.json")[1],
    "fitted": lambda stage: [
        {**row, "fit": found["fit"]}
        for row, found in zip(
            plan_rows("memory/minilm_h100_seeds.json"),
            plan_rows("memory/roberta_base_3090_fit_8gib.json"),
            strict=False,
        )
    ],
    "param_shapes": lambda stage: stage.model.shapes,
    "opt_state_shapes": lambda stage: stage.setup.shapes.opt_state,
    # reports
    "groups": lambda stage: stage.groups,
    "group": lambda stage: Group(stage.setup.shapes, 1),
    "groups_of_a_model": lambda stage: stage.groups,
    "report": lambda stage: stage.report,
    "pictures": lambda stage: pictures.write_pictures(stage.groups, Path("report")),
    # sweeps: the only run is done, so nothing is started
    "table": lambda stage: stage.table,
    "setting": lambda stage: expand.expand(stage.table)[0],
    "data_digests": lambda stage: stage.data_digests,
    "model_digests": lambda stage: stage.model_digests,
    "code": lambda stage: {"sha256": "1a2b3c"},
    "bundle": lambda stage: (stage.grid_run,),
    "bundles": lambda stage: [],
    "share": lambda stage: Share(),
    "view": lambda stage: progress.ProgressView([stage.grid_run], stage.sweep()),
    "launcher": lambda stage: stage.stack.enter_context(local.LocalWorkers(stage.sweep(), 1)),
}
SUM = jax.jit(lambda x: (x @ x).sum())
SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)


MODELS = ("attention", "bert", "dropout", "layers")


def optax_constant(update: Any) -> float:
    """A learning rate by update."""
    del update
    return 1e-3


def finished_grid(stage: Stage) -> Any:
    """A table whose only run is finished in the directory that a synopsis names."""
    (run,) = grid.make_grid(stage.table, Path("runs/new")).runs
    Path("runs/new").mkdir()
    Path("runs/minilm_grid").mkdir(exist_ok=True)
    link = Path("runs/minilm_grid") / run.name
    if not link.exists():
        link.symlink_to(stage.run)
    return stage.table


IDS = jnp.ones((2, 4), jnp.int32)
HIDDEN = jnp.ones((2, 4, 32))
SMALL = EncoderConfig(hidden_size=32, num_attention_heads=2)
HEADS = jnp.ones((2, 4, 2, 16))
INTEROP = "jaxft.peft.interop"
OF_PEFT = ("", ".files", ".peft_files", ".codec", ".peft_codecs", ".peft_lora", ".trained")
OF_HUB = (".adapterhub_files", ".adapterhub_codecs")
SPECIAL: dict[tuple[str, str], Make] = {
    **{(f"{INTEROP}{n}", "model"): lambda stage: stage.trained_model("lora") for n in OF_PEFT},
    **{(f"{INTEROP}{n}", "directory"): lambda stage: stage.exported("peft") for n in OF_PEFT},
    **{(f"{INTEROP}{n}", "model"): lambda stage: stage.trained_model("houlsby") for n in OF_HUB},
    **{
        (f"{INTEROP}{n}", "directory"): lambda stage: stage.exported("adapterhub", "houlsby")
        for n in OF_HUB
    },
    **{
        (f"{INTEROP}{n}", "path"): lambda stage: Path("adapter_config.json")
        for n in (".codec", ".peft_codecs", ".peft_lora", ".adapterhub_codecs")
    },
    (f"{INTEROP}.codec", "codec"): lambda stage: peft_codecs.CODECS["lora"],
    (f"{INTEROP}.transformers_files", "model"): lambda stage: stage.trained_model("lora"),
    (f"{INTEROP}.transformers_files", "directory"): lambda stage: stage.exported("transformers"),
    **{
        (f"jaxft.run.{n}", "directory"): lambda stage: stage.exported("peft")
        for n in ("foreign", "notes", "load")
    },
    ("jaxft.run.init_from", "parts"): lambda stage: stage.setup.parts,
    ("jaxft.run.init_from", "labels"): lambda stage: stage.setup.dataset.labels,
    ("jaxft.run.init_from", "objective"): lambda stage: SINGLE_LABEL,
    **{(f"jaxft.models.{name}", "key"): lambda stage: jax.random.key(0) for name in MODELS},
    **{("jaxft.models.bert", n): lambda stage: IDS for n in ("ids", "mask", "types", "positions")},
    **{("jaxft.models.attention", name): lambda stage: HEADS for name in "qkv"},
    ("jaxft.models.attention", "mask_BxL"): lambda stage: IDS,
    ("jaxft.models.attention", "dropout_key"): lambda stage: jax.random.key(0),
    ("jaxft.models.dropout", "x_BxLxD"): lambda stage: HIDDEN,
    ("jaxft.models.kept", "backbone"): lambda stage: stage.model.backbone,
    ("jaxft.models.kept", "module"): lambda stage: stage.model.module,
    ("jaxft.models.kept", "shapes"): lambda stage: stage.model.shapes,
    ("jaxft.models.kept", "params"): lambda stage: stage.frozen | stage.state().trained,
    ("jaxft.models.layers", "x_BxLxD"): lambda stage: HIDDEN,
    ("jaxft.models.layers", "tokens"): lambda stage: Tokens(IDS),
    ("jaxft.models.layers", "config"): lambda stage: SMALL,
    ("jaxft.models.layers", "compute"): lambda stage: Compute(),
    ("jaxft.models.remat", "Layer"): lambda stage: Layer,
    ("jaxft.models.roberta", "ids_BxL"): lambda stage: IDS,
    ("jaxft.models.mpnet", "ids_BxL"): lambda stage: IDS,
    ("jaxft.models.transformers_flax", "ROBERTA"): lambda stage: ROBERTA,
    ("jaxft.models.transformers_flax", "Compute"): lambda stage: Compute,
    ("jaxft.sweeping.expand", "flags_of"): lambda stage: flags_of,
    ("jaxft.sweeping.grid", "table"): finished_grid,
    ("jaxft.sweeping.runs", "code"): lambda stage: {"sha256": "1a2b3c"},
    ("jaxft.training.loop", "config"): lambda stage: stage.setup.loop_config,
    ("jaxft.training.loop", "train"): lambda stage: stage.setup.data["train"],
    ("jaxft.run.scores", "baseline"): lambda stage: [1.0, 0, 0, 0, 0, 0],
    ("jaxft.run.scores", "SINGLE_LABEL"): lambda stage: SINGLE_LABEL,
    ("jaxft.run.older_plans", "directories"): lambda stage: [stage.run],
    ("jaxft.io", "data"): lambda stage: b"bytes",
    ("jaxft.models.family", "config"): lambda stage: {"model_type": "bert"},
    ("jaxft.peft.method", "apply"): lambda stage: head.apply,
    ("jaxft.planning.buffers", "lowered"): lambda stage: SUM.lower(SQUARE),
    ("jaxft.planning.buffers", "temporaries"): lambda stage: compiled_bytes(
        SUM.lower(SQUARE).compile()
    )["temporaries"],
    ("jaxft.planning.overhead", "shapes"): lambda stage: ({}, {}, {"ids": SQUARE}),
    ("jaxft.planning.overhead", "compiled"): lambda stage: compiled_bytes(
        SUM.lower(SQUARE).compile()
    ),
    ("jaxft.planning.overhead", "exchanged"): lambda stage: [],
    ("jaxft.planning.collectives", "step"): lambda stage: SUM,
    ("jaxft.planning.collectives", "shapes"): lambda stage: (SQUARE,),
    ("jaxft.reporting.reference", "rows"): lambda stage: [
        PublishedRow("a paper", "bert-base", "lora", 10, spread([0.7]), spread([0.6]))
    ],
    ("jaxft.run.scores", "labels"): lambda stage: stage.setup.dataset.labels,
    ("jaxft.run.scores", "labels_N"): lambda stage: stage.setup.data["test"].labels,
    ("jaxft.run.scores", "logits_NxC"): lambda stage: stage.logits[0],
    ("jaxft.run.scores", "unseen"): lambda stage: [True] * len(stage.setup.dataset.test),
    ("jaxft.run.workdir", "config"): lambda stage: to_json(stage.config),
    ("jaxft.run.workdir", "workdir"): lambda stage: Path("runs/new"),
    ("jaxft.run.write", "results"): lambda stage: dict(stage.results),
    ("jaxft.reporting.measures", "group"): lambda stage: stage.groups[0],
    ("jaxft.hints", "own_flags"): lambda stage: ("workdir", "dry_run"),
    ("jaxft.hints", "fields"): lambda stage: {"seed": "seed"},
    ("jaxft.data.labels", "rows"): lambda stage: [
        Row("train.jsonl", 1, {"topics": ["music", "politics"]})
    ],
    ("jaxft.training.mesh", "batch"): lambda stage: stage.batch(16, rows=30),
    ("jaxft.sweeping.progress", "schedule"): lambda stage: schedule,
    ("jaxft.sweeping.progress", "runs"): lambda stage: [stage.grid_run],
    ("jaxft.sweeping.schedule", "runs"): lambda stage: [stage.grid_run],
    ("jaxft.sweeping.slurm", "runs"): lambda stage: [stage.grid_run],
    ("jaxft.sweeping.table", "runs"): lambda stage: [stage.grid_run],
    ("jaxft.sweeping.table", "run"): lambda stage: stage.grid_run,
    ("jaxft.sweeping.table", "results"): lambda stage: {
        name: stage.results["test"][name] for name in ("accuracy", "macro_f1", "collapsed")
    },
    ("jaxft.training.programs", "batch"): lambda stage: stage.batch(64),
    ("jaxft.training.trials", "seeds"): lambda stage: range(2),
    ("jaxft.training.trials", "shapes"): lambda stage: stage.setup.shapes,
    ("jaxft.training.trials", "keys"): lambda stage: dropout_keys(stage.setup.devices, range(2)),
    ("jaxft.training.trials", "batch_SxBxL"): lambda stage: {
        name: jnp.stack([x] * 2) for name, x in stage.batch(64).items()
    },
}
