"""Fine-tunes an encoder: text and a checkpoint in, an honest result and a run directory out.

    python -m jaxft.train --config configs/acl_lora.py [--workdir DIR] [--config.FIELD=VALUE ...]
                          [--dry_run]

The same command again continues an interrupted run. --dry_run loads and checks everything, prints
the parameters by partition, compiles one step and stops.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from jaxft import cli, wiring
from jaxft.data import checks
from jaxft.data.batches import bucket_of, choose_buckets, eval_order, train_order
from jaxft.data.encode import Encoded, encode
from jaxft.memory.accounting import bytes_by_partition
from jaxft.memory.compiled import compiled_bytes, flops, measured_peak
from jaxft.models import trained as trained_files
from jaxft.report import card, plots, tables
from jaxft.report.results import majority_class, predictions, test_results
from jaxft.training import loop, mesh
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.compile import ByLength
from jaxft.training.log import RunLog
from jaxft.training.metrics import score
from jaxft.training.optimizer import make_optimizer, make_schedule
from jaxft.training.partition import count
from jaxft.training.state import init_state, run_keys, state_shapes
from jaxft.training.step import eval_step, train_step


def run(config: ConfigDict, workdir: Path, dry_run: bool, argv: list[str]) -> int:
    """One run, from the raw files to results.json; returns the exit code."""
    devices = mesh.make_mesh(config.mesh.data)
    mesh.check_batch_size(devices, config.batch_size, "batch_size")
    mesh.check_batch_size(devices, config.eval_batch_size, "eval_batch_size")

    # Text -> token ids, and what there is to know about them.
    dataset = wiring.load_dataset(config)
    parts = wiring.load_parts(config, len(dataset.labels))
    splits = {"train": dataset.train, "dev": dataset.dev, "test": dataset.test}
    max_length = config.data.max_length
    data = {
        name: encode(parts.tokenizer, examples, dataset.labels, max_length)
        for name, examples in splits.items()
    }
    lengths = {name: encoded.lengths.tolist() for name, encoded in data.items()}
    data_report = checks.report(dataset, lengths, max_length)
    print(checks.render(data_report))

    # Shapes -> optimizer -> the two programs, all before any array is made.
    plan = loop.Plan(
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        epochs=config.epochs,
        seed=config.seed,
        buckets=choose_buckets(np.concatenate([d.lengths for d in data.values()]), max_length),
        max_length=max_length,
        patience=config.patience,
        save_every=config.save_every,
    )
    model = parts.model
    updates = plan.epochs * plan.steps_per_epoch(len(dataset.train)) // config.optim.accumulate
    schedule = make_schedule(
        config.optim.schedule, config.optim.learning_rate, updates, config.optim.warmup
    )
    optimizer = make_optimizer(
        model.labels,
        schedule,
        weight_decay=config.optim.weight_decay,
        clip=config.optim.clip,
        accumulate=config.optim.accumulate,
    )
    shapes, frozen_shapes = state_shapes(model, optimizer, devices)
    _, dropout_key = run_keys(config.seed)
    dropout_key = jax.device_put(dropout_key, mesh.replicated(devices))
    run_train = ByLength(
        partial(train_step, model.forward, optimizer),
        before=(shapes, frozen_shapes),
        after=(dropout_key,),
        mesh=devices,
        batch_size=plan.batch_size,
        donate=(0,),
    )
    run_eval = ByLength(
        partial(eval_step, model.forward),
        before=(shapes.trained, frozen_shapes),
        mesh=devices,
        batch_size=plan.eval_batch_size,
    )
    parameters = count(model.shapes, model.labels)
    memory: dict[str, Any] = bytes_by_partition(model.labels, model.shapes, shapes.opt_state)
    print(f"\n{config.model.name}, {config.method.name}{fresh_note(parts.fresh)}")
    print(tables.parameter_table(parameters, memory))

    if dry_run:
        return show_compiled(run_train, plan)

    # Claim the directory, restore or begin, and train.
    env = wiring.environment(parts, dataset, argv)
    settings = wiring.to_json(config)
    wiring.claim_workdir(workdir, settings, env)
    if (workdir / "DONE").exists():
        print(f"\n{workdir} is done already; its results:\n")
        print(tables.result_table(wiring.read_json(workdir / "results.json")))
        return 0
    run_train.compile_all(train_lengths(plan, data["train"]))
    run_eval.compile_all(eval_lengths(plan, data["dev"]) | eval_lengths(plan, data["test"]))
    majority = majority_class(dataset)

    def dev_scores(trained: Any) -> dict[str, Any]:
        logits_NxC = loop.logits_of(plan, data["dev"], run_eval, trained, frozen, devices)
        return score(logits_NxC, data["dev"].labels, dataset.labels, majority)

    state, frozen = init_state(model, optimizer, parts.weights, config.seed, devices)
    with Checkpoints(workdir / "checkpoints", shapes) as checkpoints:
        record = loop.new_record()
        restored = checkpoints.restore_latest()
        if restored:
            state, record = restored
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
        checkpoints.wait()
        history = record["history"]
        best = loop.best_entry(history)
        last_trained = state.trained
        best_trained = checkpoints.restore(best["step"])[0].trained

    # Test once with the chosen weights, once with the last, and write everything down.
    unseen = checks.unseen(dataset)
    test_logits = {
        name: loop.logits_of(plan, data["test"], run_eval, trained, frozen, devices)
        for name, trained in (("best", best_trained), ("last", last_trained))
    }
    scores = {
        name: test_results(logits, data["test"].labels, dataset, unseen)
        for name, logits in test_logits.items()
    }
    chosen = best if config.select == "best" else history[-1]
    peak, measured_by = measured_peak()
    results = {
        "task": config.task,
        "model": config.model.name,
        "method": config.method.name,
        "method_options": settings["method"],
        "seed": config.seed,
        "labels": list(dataset.labels),
        "select": config.select,
        "best_epoch": best["epoch"],
        "epochs_run": len(history),
        **scores[config.select],
        "dev": chosen["dev"],
        "last": {**scores["last"], "dev": history[-1]["dev"], "epoch": history[-1]["epoch"]},
        "parameters": parameters,
        "memory": memory
        | {
            "compiled": compiled_bytes(run_train.largest()),
            "measured_peak": peak,
            "measured_by": measured_by,
            "device": jax.devices()[0].device_kind,
        },
        "timing": timing(plan, data["train"], record, run_train, run_eval),
        "data": data_report,
        "config": settings,
        "history": history,
        "versions": env["versions"],
    }
    trained = best_trained if config.select == "best" else last_trained
    is_pair = any(example.pair is not None for example in dataset.test)
    write_outputs(workdir, results, trained, plan, env, is_pair)
    rows = predictions(test_logits[config.select], dataset.test, dataset.labels)
    wiring.write_jsonl(
        workdir / "predictions_test.jsonl",
        [{**row, "in_train": not new} for row, new in zip(rows, unseen, strict=True)],
    )
    (workdir / "DONE").write_text("")
    print("\n" + tables.result_table(results))
    print(f"\nrun directory: {workdir}")
    return 0


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
    print(f"  {'FLOPs':<12}{flops(executable) / 1e9:>8.1f} G")
    print(f"compiled in {run_train.compile_s:.1f} s; everything checked, nothing written")
    return 0


def train_lengths(plan: loop.Plan, data: Encoded) -> set[int]:
    """The padded lengths that any epoch's batches have."""
    kept = np.minimum(data.lengths, plan.max_length)
    orders = (train_order(data.lengths, plan.batch_size, plan.seed, e) for e in range(plan.epochs))
    longest = {int(kept[indices].max()) for order in orders for indices in order}
    return {bucket_of(length, plan.buckets, plan.max_length) for length in longest}


def eval_lengths(plan: loop.Plan, data: Encoded) -> set[int]:
    """The padded lengths of a split's evaluation batches."""
    kept = np.minimum(data.lengths, plan.max_length)
    order = eval_order(data.lengths, plan.eval_batch_size)
    return {bucket_of(int(kept[i].max()), plan.buckets, plan.max_length) for i in order}


def timing(
    plan: loop.Plan, data: Encoded, record: dict[str, Any], run_train: ByLength, run_eval: ByLength
) -> dict[str, Any]:
    """Returns results.json's `timing`; tokens are real ones, `padding_fraction` the rest."""
    epochs = len(record["history"])
    kept = np.minimum(data.lengths, plan.max_length)
    padded = 0
    for epoch in range(epochs):
        for indices in train_order(data.lengths, plan.batch_size, plan.seed, epoch):
            longest = int(kept[indices].max())
            padded += plan.batch_size * bucket_of(longest, plan.buckets, plan.max_length)
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


def write_outputs(
    workdir: Path,
    results: dict[str, Any],
    trained: Any,
    plan: loop.Plan,
    env: dict[str, Any],
    is_pair: bool,
) -> None:
    """Writes the trained parameters, results.json, the plots and the model card."""
    settings = {
        "labels": results["labels"],
        "pair": is_pair,
        "buckets": plan.buckets,
        "max_length": plan.max_length,
        "eval_batch_size": plan.eval_batch_size,
        "weights_sha256": env["weights_sha256"],
    }
    trained_files.save(workdir / wiring.trained_folder(results["method"]), trained, settings)
    wiring.write_json(workdir / "results.json", results)
    (workdir / "plots").mkdir(exist_ok=True)
    title = f"{results['task']}, {results['model']}, {results['method']}"
    plots.learning_curves(
        results["history"],
        workdir / "plots" / "learning_curves.png",
        title=title,
        selected=results["best_epoch"] if results["select"] == "best" else None,
    )
    plots.confusion_matrix(
        results["test"], results["labels"], workdir / "plots" / "confusion_test.png", title=title
    )
    (workdir / "README.md").write_text(card.model_card(results, command=env["command"]))


def main(argv: list[str]) -> int:
    """Parses the flags and runs; see the module's docstring."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "run directory; default: one named by the config", values)
    flags.DEFINE_bool("dry_run", False, "check, count and compile, then stop", values)
    config = cli.parse_config_command(argv, values)
    workdir = Path(values.workdir) if values.workdir else wiring.default_workdir(config)
    try:
        return run(config, workdir, values.dry_run, argv)
    except loop.InterruptedRunError as stop:
        print(f"\n{stop}; the same command continues it", file=sys.stderr)
        return stop.exit_code


if __name__ == "__main__":
    sys.exit(cli.guarded(main, sys.argv))
