"""Fine-tunes an encoder: text and a checkpoint in, an honest result and a run directory out.

    python -m jaxft.train --config configs/acl_lora.py [--workdir DIR] [--config.FIELD=VALUE ...]
                          [--dry_run] [--distributed=auto|on|off] [--heartbeat SECONDS]

The same command again continues an interrupted run. --dry_run loads and checks everything, prints
the parameters by partition, compiles one step and stops. Started on several hosts at once, with the
same config, it is one run (`jaxft.training.hosts`); a host that is lost ends the others within
--heartbeat and half a minute.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jaxft import cli, wiring
from jaxft.data import checks
from jaxft.data.batches import bucket_of, choose_buckets, eval_order, train_order
from jaxft.data.encode import Encoded, encode
from jaxft.data.examples import Dataset
from jaxft.errors import InputError
from jaxft.memory import leak
from jaxft.memory.accounting import bytes_by_partition
from jaxft.memory.compiled import (
    ResidentGrowth,
    allocator_peak,
    compiled_bytes,
    flops,
    measured_peak,
)
from jaxft.models import trained as trained_files
from jaxft.report import card, plots, tables
from jaxft.report.results import majority_class, predictions, test_results
from jaxft.training import hosts, loop, mesh
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.compile import ByLength, eval_program, train_program
from jaxft.training.log import RunLog
from jaxft.training.metrics import score
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import count
from jaxft.training.sharding import check_tensor
from jaxft.training.state import Model, dropout_key_on, init_state, state_shapes
from jaxft.training.step import Params


def run(config: ConfigDict, workdir: Path, dry_run: bool, argv: list[str]) -> int:
    """One run, from the raw files to results.json; returns the exit code."""
    # Text -> token ids, and what there is to know about them; every process reads the same.
    with hosts.together():
        devices = mesh.make_mesh(**config.mesh)
        dataset = wiring.load_dataset(config)
    hosts.agree({"data": wiring.fingerprint(dataset)})
    with hosts.together():
        parts = wiring.load_parts(config, len(dataset.labels))
        check_tensor(parts.model.backbone.heads, config.mesh.tensor)
        data = encode_splits(config, dataset, parts)
        env = wiring.environment(parts, dataset, argv)
    hosts.agree({"weights": env["weights_sha256"]})
    data_report = report_on(config, dataset, data)
    print(checks.render(data_report))

    # Shapes -> optimizer -> the two programs, before any array is made.
    plan = make_plan(config, data)
    schedule, optimizer = make_optimization(config, plan, data["train"], parts.model)
    shapes, frozen_shapes = state_shapes(parts.model, optimizer, devices)
    dropout_key = dropout_key_on(devices, config.seed)
    run_train = train_program(
        parts.model, optimizer, devices, plan.batch_size, log_norm=config.optim.clip > 0
    )
    run_eval = eval_program(parts.model, devices, plan.eval_batch_size)
    parameters = count(parts.model.shapes, parts.model.labels)
    memory = bytes_by_partition(
        parts.model.labels, shapes.trained | frozen_shapes, shapes.opt_state
    )
    print(f"\n{config.model.name}, {config.method.name}{fresh_note(parts.fresh)}")
    print(tables.parameter_table(parameters, memory))
    if dry_run:
        return show_compiled(run_train, plan)

    # Claim the directory; a finished run is only shown.
    with hosts.together():
        if hosts.is_writer():
            wiring.claim_workdir(workdir, wiring.to_json(config), env)
    hosts.check_shared(workdir)
    if hosts.broadcast((workdir / "DONE").exists()):
        print(f"\n{workdir} is done already; its results:\n")
        print(tables.result_table(wiring.read_json(workdir / "results.json")))
        return 0

    # Compile, then restore or begin, and train to the end.
    run_train.compile_all(train_lengths(plan, data["train"], plan.epochs))
    run_eval.compile_all(eval_lengths(plan, data["dev"]) + eval_lengths(plan, data["test"]))
    longest = max(run_train.executables)
    leak.check(run_train.largest(), parts.model, run_train.shapes(longest))
    growth = ResidentGrowth()
    state, frozen = init_state(parts.model, optimizer, parts.weights, config.seed, devices)

    def logits(split: str, trained: Params) -> np.ndarray:
        return loop.logits_of(plan, data[split], run_eval, trained, frozen, devices)

    def dev_scores(trained: Params) -> dict[str, Any]:
        majority = majority_class(dataset)
        return score(logits("dev", trained), data["dev"].labels, dataset.labels, majority)

    with Checkpoints(workdir / "checkpoints", shapes) as checkpoints:
        state, record = checkpoints.restore_latest() or (state, loop.new_record())
        hosts.agree({"the step to start at": int(state.step)})
        if int(state.step):
            print(f"continuing {workdir} at step {int(state.step)}")
        with RunLog(workdir, resume_step=int(state.step)) as log:
            state, record = loop.fit(
                plan,
                data["train"],
                run_train,
                dev_scores,
                state,
                frozen,
                dropout_key,
                record,
                schedule=schedule,
                accumulate=config.optim.accumulate,
                mesh=devices,
                checkpoints=checkpoints,
                log=log,
            )
        best, last = loop.best_entry(record["history"]), record["history"][-1]
        trained = {"last": state.trained, "best": state.trained}
        if best["step"] != last["step"]:
            checkpoints.wait()
            trained["best"] = checkpoints.restore(best["step"])[0].trained

    # Test the chosen weights and the last ones, and write everything down.
    unseen = checks.unseen(dataset)
    test_logits = {"last": logits("test", trained["last"])}
    test_logits["best"] = test_logits["last"] if best is last else logits("test", trained["best"])
    scores = {
        name: test_results(logits_NxC, data["test"].labels, dataset, unseen)
        for name, logits_NxC in test_logits.items()
    }
    chosen = best if config.select == "best" else last
    results = {
        **describe(config, dataset),
        "best_epoch": best["epoch"],
        "selected_epoch": chosen["epoch"],
        **scores[config.select],
        "dev": chosen["dev"],
        "last": {**scores["last"], "dev": last["dev"], "epoch": last["epoch"]},
        "parameters": parameters,
        "memory": {**memory, **used_memory(run_train, growth, parts.weights)},
        "timing": timing(plan, data["train"], record, run_train, run_eval),
        "data": data_report,
        "history": record["history"],
        "versions": env["versions"],
    }
    chosen_leaves = {path: mesh.fetch(x) for path, x in trained[config.select].items()}
    with hosts.together():
        if hosts.is_writer():
            write_trained(workdir, chosen_leaves, plan, dataset, env, config.method.name)
            write_predictions(workdir, test_logits[config.select], dataset, unseen)
            write_report(workdir, results, env["command"])
            (workdir / "DONE").write_text("")
    print("\n" + tables.result_table(results))
    print(f"\nrun directory: {workdir}")
    return 0


def encode_splits(config: ConfigDict, dataset: Dataset, parts: wiring.Parts) -> dict[str, Encoded]:
    """Returns train, dev and test as token ids."""
    splits = {"train": dataset.train, "dev": dataset.dev, "test": dataset.test}
    return {
        name: encode(parts.tokenizer, examples, dataset.labels, config.data.max_length)
        for name, examples in splits.items()
    }


def report_on(config: ConfigDict, dataset: Dataset, data: dict[str, Encoded]) -> dict[str, Any]:
    """Returns the data report, results.json's `data`."""
    lengths = {name: encoded.lengths.tolist() for name, encoded in data.items()}
    return checks.report(dataset, lengths, config.data.max_length)


def make_plan(config: ConfigDict, data: dict[str, Encoded]) -> loop.Plan:
    """Returns what the loop is told; the buckets suit all three splits."""
    max_length = config.data.max_length
    lengths = np.concatenate([encoded.lengths for encoded in data.values()])
    return loop.Plan(
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        epochs=config.epochs,
        seed=config.seed,
        buckets=choose_buckets(lengths, max_length),
        max_length=max_length,
        patience=config.patience,
        save_every=config.save_every,
    )


def make_optimization(
    config: ConfigDict, plan: loop.Plan, train: Encoded, model: Model
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Returns the learning rate by update, and the optimizer of the model's labels."""
    optim = config.optim
    updates = plan.epochs * plan.steps_per_epoch(len(train.ids)) // optim.accumulate
    schedule = make_schedule(optim.schedule, optim.learning_rate, updates, optim.warmup)
    optimizer = make_optimizer(
        model.labels,
        schedule,
        weight_decay=optim.weight_decay,
        clip=optim.clip,
        accumulate=optim.accumulate,
    )
    return schedule, optimizer


def describe(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns what of results.json was known before training."""
    settings = wiring.to_json(config)
    return {
        "task": config.task,
        "model": config.model.name,
        "method": config.method.name,
        "method_options": settings["method"],
        "seed": config.seed,
        "labels": list(dataset.labels),
        "select": config.select,
        "config": settings,
    }


def used_memory(
    run_train: ByLength, growth: ResidentGrowth, weights: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Returns what the longest step needs by XLA, and what was measured on the device.

    On the CPU `measured_for_step` stands beside XLA's figure: how much the process grew from before
    the state was made, and the checkpoint's weights, which were read before and are used in place.
    """
    compiled = compiled_bytes(run_train.largest())
    peak, measured_by = measured_peak()
    used, grown = allocator_peak(), growth.bytes()
    if used is None and grown is not None:
        used = grown + sum(x.nbytes for x in weights.values())
    return {
        "compiled": compiled,
        "measured_peak": peak,
        "measured_by": measured_by,
        "measured_for_step": used,
        "measured_error_percent": used and 100 * (used / compiled["peak"] - 1),
        "device": jax.devices()[0].device_kind,
    }


def fresh_note(fresh: list[str]) -> str:
    """Says which parameters do not come from the checkpoint."""
    modules = sorted({path.rsplit("/", 1)[0] for path in fresh})
    return f" ({', '.join(modules)} newly initialised)" if modules else ""


def show_compiled(run_train: ByLength, plan: loop.Plan) -> int:
    """Compiles the longest step and prints what it needs; returns the exit code."""
    length = max(plan.buckets)
    executable = run_train.compile(length)
    sizes = compiled_bytes(executable)
    print(f"\none step of {plan.batch_size} examples x {length} tokens, compiled for this device:")
    for name, size in sizes.items():
        print(f"  {name:<12}{tables.human_bytes(size):>12}")
    print(f"  {'FLOPs':<12}{(flops(executable) or 0) / 1e9:>8.1f} G")
    print(f"compiled in {run_train.compile_s:.1f} s; everything checked, nothing written")
    return 0


def padded_lengths(plan: loop.Plan, data: Encoded, order: list[np.ndarray]) -> list[int]:
    """The length that each batch of an order is padded to."""
    kept = np.minimum(data.lengths, plan.max_length)
    return [bucket_of(int(kept[i].max()), plan.buckets, plan.max_length) for i in order]


def train_lengths(plan: loop.Plan, data: Encoded, epochs: int) -> list[int]:
    """The padded lengths of all batches of the first epochs."""
    orders = (train_order(data.lengths, plan.batch_size, plan.seed, e) for e in range(epochs))
    return [length for order in orders for length in padded_lengths(plan, data, order)]


def eval_lengths(plan: loop.Plan, data: Encoded) -> list[int]:
    """The padded lengths of a split's evaluation batches."""
    return padded_lengths(plan, data, eval_order(data.lengths, plan.eval_batch_size))


def timing(
    plan: loop.Plan, data: Encoded, record: dict[str, Any], run_train: ByLength, run_eval: ByLength
) -> dict[str, Any]:
    """Returns results.json's `timing`; tokens are real ones, `padding_fraction` the rest."""
    epochs = len(record["history"])
    kept = np.minimum(data.lengths, plan.max_length)
    padded = plan.batch_size * sum(train_lengths(plan, data, epochs))
    tokens = epochs * int(kept.sum())
    seconds = record["train_s"]
    return {
        "compile_s": run_train.compile_s + run_eval.compile_s,
        "train_s": seconds,
        "examples_per_s": epochs * len(kept) / seconds,
        "tokens_per_s": tokens / seconds,
        "padding_fraction": 1 - tokens / padded,
        "compiled_shapes": len(run_train.executables) + len(run_eval.executables),
    }


def write_trained(
    workdir: Path,
    trained: dict[str, np.ndarray],
    plan: loop.Plan,
    dataset: Dataset,
    env: dict[str, Any],
    method: str,
) -> None:
    """Writes the trained parameters, with all that predicting with them takes."""
    settings = {
        "labels": dataset.labels,
        "pair": any(example.pair is not None for example in dataset.test),
        "buckets": plan.buckets,
        "max_length": plan.max_length,
        "eval_batch_size": plan.eval_batch_size,
        "weights_sha256": env["weights_sha256"],
    }
    trained_files.save(workdir / wiring.trained_folder(method), trained, settings)


def write_predictions(
    workdir: Path, logits_NxC: np.ndarray, dataset: Dataset, unseen: list[bool]
) -> None:
    """Writes predictions_test.jsonl, in the order of the test split."""
    rows = predictions(logits_NxC, dataset.test, dataset.labels)
    marked = [{**row, "in_train": not new} for row, new in zip(rows, unseen, strict=True)]
    wiring.write_jsonl(workdir / "predictions_test.jsonl", marked)


def write_report(workdir: Path, results: dict[str, Any], command: str) -> None:
    """Writes results.json, the plots and the model card."""
    wiring.write_json(workdir / "results.json", results)
    folder = workdir / "plots"
    folder.mkdir(exist_ok=True)
    title = f"{results['task']}, {results['model']}, {results['method']}"
    plots.learning_curves(
        results["history"],
        folder / "learning_curves.png",
        title=title,
        selected=results["selected_epoch"],
    )
    plots.confusion_matrix(
        results["test"], results["labels"], folder / "confusion_test.png", title=title
    )
    (workdir / "README.md").write_text(card.model_card(results, command=command), "utf-8")


def join_hosts(argv: list[str]) -> list[str]:
    """Starts what --distributed says and returns the other arguments.

    Before the config is read: a host on which that fails tells the others.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("distributed", "auto", "one run of several processes", values)
    flags.DEFINE_integer(
        "heartbeat", hosts.HEARTBEAT_S, "seconds to a lost host", flag_values=values
    )
    values.set_gnu_getopt()  # --config FILE comes first, and ends the options otherwise
    try:
        rest = values(argv, known_only=True)
    except flags.Error as err:
        raise InputError(cli.flag_message(err, "")) from err
    hosts.start(values.distributed, values.heartbeat)
    return rest


def to_agree(config: ConfigDict, dry_run: bool) -> dict[str, Any]:
    """Returns what the processes of a run must be given alike.

    Where the data lie is each host's own affair; what they are is compared once they are read.
    """
    fields = flatten_dict(wiring.to_json(config), sep=".")
    del fields["data.dir"]
    return {"--dry_run": dry_run, **{f"config.{name}": x for name, x in fields.items()}}


def main(argv: list[str]) -> int:
    """Parses the flags and runs; see the module's docstring."""
    rest = join_hosts(argv)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "run directory; default: one named by the config", values)
    flags.DEFINE_bool("dry_run", False, "check, count and compile, then stop", values)
    with hosts.together():
        config = cli.parse_config_command(rest, values)
    hosts.agree(to_agree(config, values.dry_run))
    workdir = Path(values.workdir) if values.workdir else wiring.default_workdir(config)
    try:
        return run(config, workdir, values.dry_run, argv)
    except loop.InterruptedRunError as stop:
        if hosts.is_writer():
            print(f"\n{stop}; the same command continues it", file=sys.stderr)
        return stop.exit_code


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
