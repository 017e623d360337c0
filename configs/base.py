"""Every default, with a comment per line. A config file starts from this and overrides fields.

python -m jaxft.train --config configs/base.py --config.task=acl_sup --config.method.name=lora
"""

import re
from collections.abc import Callable

from ml_collections import ConfigDict

from jaxft.data import tasks
from jaxft.errors import InputError
from jaxft.peft.methods import added_options, find
from jaxft.plugins import load


def add_data(config: ConfigDict) -> None:
    """The task and its data."""
    config.plugins = ()  # modules of your own to import first, e.g. ("my_method",)
    config.task = "acl_sup"  # NAME_sup, NAME_fs (few-shot), "custom", or several with commas
    config.data = ConfigDict()
    # "" takes $JAXFT_DATA or else the download.
    config.data.dir = ""  # has <task>/{train,dev,test}.*; task "custom": has train.*, or is a file
    config.data.source = "auto"  # auto | local | download | sample (bundled, for trying out)
    config.data.few_shot = 32  # training examples of a _fs task
    config.data.max_length = 128  # tokens kept of a text, special tokens included
    config.data.split_seed = 2022  # seed of every split that jaxft draws itself
    # packed: all lengths, several texts in a row; auto: packed where the model can.
    config.data.batches = "auto"  # auto | packed | by_length (one length, a text in a row)
    config.data.hub = ""  # task "custom": a dataset on the hub, "org/name" or "org/name:config"
    config.data.labels = ()  # task "custom": label names in order; () reads them off train
    config.data.columns = ConfigDict()  # task "custom": names of the columns
    config.data.columns.text = "text"  # the text, or the first of a pair
    config.data.columns.pair = ""  # the second text of a pair; "" for single texts
    config.data.columns.label = "label"  # a name, an index into data.labels, a list, or a number
    config.data.columns.id = ""  # "" numbers the examples by line
    config.data.label_separator = ""  # task "custom": between several labels of a CSV, e.g. ";"
    config.data.splits = ConfigDict()  # task "custom": names of the splits; "" takes the usual ones
    config.data.splits.train = ""  # a split of the hub, or the name of a file without its ending
    config.data.splits.dev = ""  # usually dev, validation, valid or val; without one: held out
    config.data.splits.test = ""  # e.g. "validation"; without one: held out of train


def add_model(config: ConfigDict) -> None:
    """The model."""
    config.model = ConfigDict()
    config.model.name = "bert-base-uncased"  # hub id, local directory, or "minilm"
    config.model.dtype = "float32"  # of the computation: float32 | bfloat16 | float16
    config.model.remat = "none"  # none | layer (keep layer inputs only) | dots (and Dense outputs)
    config.model.frozen_dtype = "float32"  # of frozen parameters: a dtype, or int8 | nf4 in layers
    config.model.attention = "xla"  # xla | cudnn (NVIDIA; 16 bit, and no attention dropout)
    config.model.attention_dropout = -1.0  # rate on attention weights; -1: the checkpoint's
    config.model.scan = "off"  # off | on | auto (from 12 layers): a loop over equal layers
    config.model.keep_frozen = False  # True: layers below all trained ones run once, no dropout
    config.model.implementation = "jaxft"  # jaxft | transformers (4.57's BERT and RoBERTa in Flax)


def add_method(config: ConfigDict) -> None:
    """The method of fine-tuning."""
    config.method = ConfigDict()
    # full | head | bitfit | layernorm | lora | dora | vera | ia3 | houlsby | pfeiffer | parallel |
    # compacter | fusion | prefix
    config.method.name = "lora"  # one of these
    config.method.rank = 8  # lora, dora: r
    config.method.alpha = 16.0  # lora, dora: the update is scaled by alpha / rank
    config.method.dropout = 0.1  # lora, dora, vera: dropout on the input; fusion: on the scores
    config.method.targets = ("query", "value")  # lora, dora, vera: + key, dense, all-linear, regex
    # lora and dora have the next five.
    config.method.rank_stabilized = False  # the scale is alpha / sqrt(rank) (rsLoRA)
    config.method.rank_pattern = ()  # other ranks, e.g. ("value=16",): TARGET=RANK
    config.method.alpha_pattern = ()  # other alphas, e.g. ("value=32",): TARGET=ALPHA
    config.method.lora_init = "kaiming"  # kaiming | gaussian; lora also pissa | olora
    config.method.lr_ratio = 1.0  # B's learning rate over A's (LoRA+ proposes 16)
    config.method.vera_rank = 256  # vera: r, the width between its two matrices
    config.method.vera_seed = 0  # vera: of these matrices, whatever the run's seed
    # houlsby, pfeiffer, parallel and compacter have the next three.
    config.method.size = 64  # bottleneck width
    config.method.activation = "swish"  # relu | gelu | swish | tanh
    config.method.train_layer_norm = False  # the adapted blocks' LayerNorm too
    config.method.adapter_scale = 4.0  # parallel: the factor on the adapter's output
    config.method.phm_dim = 4  # compacter: Kronecker products of a kernel
    config.method.adapters = ()  # fusion: finished runs of houlsby or pfeiffer, "DIR,DIR"
    config.method.prefix_length = 30  # prefix: keys and values of a layer
    config.method.train_pooler = True  # BERT's pooler is part of the head; False: as peft has it
    config.method.layers = ()  # layers with modules, e.g. (-2, -1) for the top two; () for all
    config.method.unfreeze = ""  # regex on paths of the backbone that are trained as well
    for name, default in added_options().items():  # of plugins' methods
        config.method[name] = default


def add_optim(config: ConfigDict) -> None:
    """The optimizer."""
    config.optim = ConfigDict()
    config.optim.learning_rate = 1e-3  # peak of the schedule
    config.optim.learning_rates = ()  # several runs, e.g. (1e-3, 3e-4); () is learning_rate alone
    config.optim.weight_decay = 0.01  # of AdamW; biases and LayerNorm have none
    config.optim.warmup = 0.06  # share of the updates
    config.optim.schedule = "linear"  # linear | cosine | constant, after the warmup
    config.optim.clip = 1.0  # largest norm of the trained gradients; 0 never clips
    config.optim.accumulate = 1  # batches averaged into one update


def add_run(config: ConfigDict) -> None:
    """The run and its devices."""
    config.init_from = ""  # a run, an export or peft's files, to train on from; "" for none
    config.batch_size = 32  # examples a step, over all devices
    config.eval_batch_size = 64  # examples an evaluation step
    config.epochs = 10  # passes over the training split
    config.seed = 0  # of initialisation, order and dropout
    config.seeds = ()  # several runs, e.g. (1, 2, 3); () is seed alone
    config.together = "auto"  # auto | on | off: whether several runs train in one step
    config.select = "best"  # best (on dev) | last: the epoch whose test result counts
    config.objective = "auto"  # auto (by the data) | single_label | multi_label | regression
    config.metric = "auto"  # for best and patience: macro_f1 | accuracy | mcc | pearson | loss ...
    config.class_weights = ""  # of the loss: "balanced", or a number per class, e.g. "1,2.5,1"
    config.label_smoothing = 0.0  # share of the target that is spread over all classes
    config.patience = 0  # epochs without a better dev score before stopping; 0: never
    config.save_every = 0  # steps between checkpoints inside an epoch; 0: only at its end
    config.mesh = ConfigDict()
    config.mesh.seeds = 1  # groups of devices that train different seeds or learning rates
    config.mesh.data = -1  # groups of devices that share a batch; -1: all remaining devices
    config.mesh.fsdp = 1  # devices that share a batch and hold a part of each matrix
    config.mesh.tensor = 1  # devices that share a layer's attention heads and hidden units


def add_memory(config: ConfigDict) -> None:
    """The memory planner."""
    # For `python -m jaxft.memory` alone; runs do not depend on it. () takes the value from above.
    config.memory = ConfigDict()
    config.memory.targets = ("here",)  # devices, e.g. ("h100:8", "v5e:2x4"); --target overrides it
    config.memory.devices = ()  # your own GPUs, e.g. ({"name": "a5000", "like": "a6000", ...},)
    config.memory.methods = ()  # of the table, also lora-top; () for the usual ones
    config.memory.top_layers = 2  # lora-top: LoRA in this many layers from the top
    config.memory.seeds = ()  # how many train together, e.g. (1, 5); () for the runs from above
    config.memory.batch_sizes = ()  # examples a step, over all devices
    config.memory.meshes = ()  # e.g. ("data", "fsdp8", "fsdp4+tensor2"); () for config.mesh
    config.memory.lengths = ()  # padded length of a text in tokens
    config.memory.dtypes = ()  # of the computation
    config.memory.frozen_dtypes = ()  # of what is frozen, e.g. ("float32", "nf4"), side by side
    config.memory.remats = ()  # e.g. ("none", "dots", "layer"), side by side
    config.memory.steps = 0  # steps to run and measure, if the target is the present device
    config.memory.estimates = False  # also print hand estimates of a 3B model


def get_config(arg: str = "") -> ConfigDict:
    """Returns the defaults; `arg` is the text after a colon in FILE:ARG, unused here."""
    del arg
    config = ConfigDict()
    for add in (add_data, add_model, add_method, add_optim, add_run, add_memory):
        add(config)
    return config


def defaults_of(task: str, method: str, plugins: tuple[str, ...] = ()) -> ConfigDict:
    """Returns the defaults with a task's epochs and the learning rate that suits a method.

    PEFT needs larger steps than full fine-tuning. The fewer parameters it trains, the larger the
    steps should be and the more of them it needs.

    Args:
      task: as `config.task`, for example "acl_sup".
      method: as `config.method.name`; each has its learning rate in its file of jaxft/peft.
      plugins: modules of your own that register the task or the method.
    """
    load(plugins)
    config = get_config()
    config.plugins = tuple(plugins)
    config.task = task
    name = re.sub("_(sup|fs)$", "", task)
    config.epochs = tasks.find(name).epochs if name in tasks.names() else config.epochs
    config.method.name = method
    config.optim.learning_rate = find(method).learning_rate
    return config


def named(task: str, method: str) -> Callable[[str], ConfigDict]:
    """Returns the `get_config` of a file whose name has the task and the method."""

    def get_config(arg: str = "") -> ConfigDict:
        if arg:
            file = re.sub("_(sup|fs)$", "", task)
            raise InputError(
                f"--config: {arg!r} after the colon, and this file is of {method!r}; "
                f"configs/{file}.py takes a method, as in configs/{file}.py:{method}"
            )
        return defaults_of(task, method)

    return get_config
