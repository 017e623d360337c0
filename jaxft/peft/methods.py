"""The methods: what each inserts into a backbone and which parameters it trains.

    method = build("lora", shapes, fresh=["classifier/kernel", ...], options=Options(rank=8))
    module = Injected(backbone.module, method.insertions)
    labels = label_tree(paths, method.rules)            # jaxft.training.partition

A method is plain data: insertions, and an ordered list of (full-match path regex, label). `build`
puts the head's rules in front of every method's own. A label is a partition, `frozen`, `backbone`,
`adapter` or `head`, with `:no_decay` behind it for biases and LayerNorm scales, which weight decay
should not pull to zero. To add one, write a function that returns a Method and put it in `METHODS`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from jaxft.errors import InputError, check_choice
from jaxft.models.backbone import Params
from jaxft.peft import bottleneck, lora
from jaxft.peft.inject import Insertion

Rule = tuple[str, str]

FROZEN: Rule = (r".*", "frozen")
CLASSIFIER = r"classifier/.*"
POOLER = r"bert/pooler/.*"
LAYER = re.compile(r".*/layers?/(\d+)/")

# Shorthands for LoRA's targets, as full-match regexes on the paths of an encoder's Dense layers.
TARGETS = {
    "query": r".*/(attention/self/query|self_attn/q_proj)",
    "key": r".*/(attention/self/key|self_attn/k_proj)",
    "value": r".*/(attention/self/value|self_attn/v_proj)",
    "dense": r".*/dense",
    "all-linear": r".*",
}


@dataclass(frozen=True)
class Options:
    """What a method can be told; each reads what it needs.

    Attributes:
      rank, alpha, dropout, targets: LoRA's; targets are shorthands (`TARGETS`) or path regexes.
      size, activation, train_layer_norm: the bottleneck adapters'.
      layers: encoder layers that get modules; negative counts from the top; empty means all.
      train_pooler: whether BERT's pooler belongs to the head, as the same Dense and tanh do in
        RoBERTa's classifier. A pooler that pretraining left behind (sentence encoders do not use
        it) is a poor thing to freeze; peft and adapters freeze it unless told otherwise.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("query", "value")
    size: int = 64
    activation: str = "swish"
    train_layer_norm: bool = False
    layers: tuple[int, ...] = ()
    train_pooler: bool = True


@dataclass(frozen=True)
class Method:
    """A name, the insertions and the rules; see the module's docstring."""

    name: str
    insertions: tuple[Insertion, ...]
    rules: tuple[Rule, ...]


def build(name: str, shapes: Params, fresh: list[str], options: Options) -> Method:
    """Returns a method for a backbone.

    Args:
      name: a key of `METHODS`.
      shapes: path -> ShapeDtypeStruct of the backbone with its classifier.
      fresh: paths that the checkpoint lacks. They are trained with the head by every method: a
        parameter that was drawn at random is never frozen (a masked language model's pooler).

    Raises:
      InputError: an unknown method, target, activation or layer.
    """
    check_choice(name, METHODS, "method.name")
    method = METHODS[name](shapes, options)
    is_head = re.compile(f"{CLASSIFIER}|{POOLER}" if options.train_pooler else CLASSIFIER)
    paths = [path for path in shapes if is_head.fullmatch(path) or path in fresh]
    heads = tuple((re.escape(path), head_label(path)) for path in paths)
    return Method(name, method.insertions, heads + method.rules)


def head_label(path: str) -> str:
    return "head:no_decay" if path.endswith("/bias") else "head"


def full(shapes: Params, options: Options) -> Method:
    """Everything is trained."""
    del shapes, options
    rest = ((r".*/(bias|scale|weight)", "backbone:no_decay"), (r".*", "backbone"))
    return Method("full", (), rest)


def head(shapes: Params, options: Options) -> Method:
    """The head alone."""
    del shapes, options
    return Method("head", (), (FROZEN,))


def bitfit(shapes: Params, options: Options) -> Method:
    """Every bias (Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199).

    The pooler's is one of them only if the pooler is trained.
    """
    has_pooler = any(re.fullmatch(POOLER, path) for path in shapes)
    kept = ((POOLER, "frozen"),) if has_pooler and not options.train_pooler else ()
    return Method("bitfit", (), (*kept, (r".*/bias", "adapter:no_decay"), FROZEN))


def lora_method(shapes: Params, options: Options) -> Method:
    """LoRA beside the Dense layers that the targets name."""
    check_positive(options.rank, "method.rank")
    if not 0 < options.alpha < math.inf:
        raise InputError(f"method.alpha: {options.alpha}; expected a number above 0")
    if not 0 <= options.dropout < 1:
        raise InputError(f"method.dropout: {options.dropout}; expected a rate in [0, 1)")
    denses = matching(in_layers(dense_paths(shapes), options.layers), options.targets)
    insertion = lora.beside(denses, rank=options.rank, alpha=options.alpha, dropout=options.dropout)
    return Method("lora", (insertion,), ((r".*/lora/[ab]", "adapter"), FROZEN))


def houlsby(shapes: Params, options: Options) -> Method:
    """An adapter after attention and one after the FFN of every layer."""
    if is_decoder(shapes):
        blocks = r".*/(o_proj|down_proj)"
        return bottleneck_method("houlsby", bottleneck.serial, blocks, shapes, options)
    return bottleneck_method("houlsby", bottleneck.houlsby, r".*/output", shapes, options)


def pfeiffer(shapes: Params, options: Options) -> Method:
    """An adapter after the FFN of every layer."""
    if is_decoder(shapes):
        return bottleneck_method("pfeiffer", bottleneck.serial, r".*/down_proj", shapes, options)
    blocks = r".*/layer/\d+/output"
    return bottleneck_method("pfeiffer", bottleneck.pfeiffer, blocks, shapes, options)


def bottleneck_method(
    name: str,
    insert: Callable[..., Insertion],
    blocks: str,
    shapes: Params,
    options: Options,
) -> Method:
    """The insertions and rules of an adapter in the output blocks that a regex names."""
    check_positive(options.size, "method.size")
    check_choice(options.activation, bottleneck.ACTIVATIONS, "method.activation")
    outputs = [path.removesuffix("/dense") for path in dense_paths(shapes)]
    chosen = {p for p in in_layers(outputs, options.layers) if re.fullmatch(blocks, p)}
    rules = [
        (r".*/adapter/(down|up)/bias", "adapter:no_decay"),
        (r".*/adapter/(down|up)/kernel", "adapter"),
    ]
    if options.train_layer_norm:
        norms = "|".join(re.escape(path) for path in sorted(chosen))
        rules.append((rf"({norms})/LayerNorm/(scale|bias)", "adapter:no_decay"))
    insertion = insert(chosen, size=options.size, activation=options.activation)
    return Method(name, (insertion,), (*rules, FROZEN))


METHODS: dict[str, Callable[[Params, Options], Method]] = {
    "full": full,
    "head": head,
    "bitfit": bitfit,
    "lora": lora_method,
    "houlsby": houlsby,
    "pfeiffer": pfeiffer,
}


def dense_paths(shapes: Params) -> list[str]:
    """Paths of the Dense layers that stand in the encoder's (or decoder's) layers."""
    kernels = (path for path in shapes if path.endswith("/kernel") and LAYER.match(path))
    return [path.removesuffix("/kernel") for path in kernels]


def is_decoder(shapes: Params) -> bool:
    """Whether the backbone is a Llama, which has no LayerNorm after its blocks."""
    return any("/self_attn/" in path for path in shapes)


def in_layers(paths: list[str], layers: tuple[int, ...]) -> list[str]:
    """The paths that lie in these encoder layers; all of them if none is named."""
    numbers = {path: int(LAYER.match(path)[1]) for path in paths}  # type: ignore[index]  # all lie in one
    count = max(numbers.values()) + 1
    for layer in layers:
        if not -count <= layer < count:
            raise InputError(
                f"method.layers: no layer {layer}; the encoder has {count}, 0 to {count - 1}"
            )
    chosen = {layer % count for layer in layers} or set(numbers.values())
    return [path for path in paths if numbers[path] in chosen]


def matching(paths: list[str], targets: tuple[str, ...]) -> set[str]:
    """The paths that some target matches.

    Raises:
      InputError: no target is given, or one is no regex, or one matches nothing.
    """
    if not targets:
        raise InputError(f"method.targets: empty; expected some of {', '.join(TARGETS)} or a regex")
    found: set[str] = set()
    for target in targets:
        try:
            hits = {path for path in paths if re.fullmatch(TARGETS.get(target, target), path)}
        except re.error as err:
            raise InputError(f"method.targets: {target!r} is not a regex ({err})") from err
        if not hits:
            raise InputError(
                f"method.targets: {target!r} matches no Dense layer; expected some of "
                f"{', '.join(TARGETS)} or a regex that matches whole paths such as {paths[0]}"
            )
        found |= hits
    return found


def check_positive(value: int, field: str) -> None:
    if value < 1:
        raise InputError(f"{field}: {value}; expected a whole number above 0")
