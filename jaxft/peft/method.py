r"""What a method of fine-tuning is, and the table of methods.

    register(Method("scale", Options, apply))          # one file makes a method
    method = find("lora")
    options = method.read_options({"rank": 8, "size": 64})     # LoraOptions(rank=8, ...)
    applied = method.apply(Site(family, shapes), options)

A method is one value of `Method`, in one file, which may be outside this package. It owns its
options, the modules that it inserts, which parameters it trains, how its own are initialised and
divided over devices, and how they are merged back into the backbone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from jaxft.errors import InputError, check_choice
from jaxft.models.backbone import Params
from jaxft.models.family import Axes, Family
from jaxft.peft.inject import Insertion, Shared

# (regex on whole parameter paths, label). A label is a partition, `frozen`, `backbone`, `adapter`
# or `head`. `:no_decay` after it is for biases and LayerNorm scales, which weight decay should not
# pull to zero; `:rate=16` is for 16 times the learning rate.
Rule = tuple[str, str]
FROZEN: Rule = (r".*", "frozen")


@dataclass(frozen=True)
class Options:
    """The options of every method.

    Attributes:
      train_pooler: whether BERT's pooler belongs to the head, as the same Dense and tanh do in
        RoBERTa's classifier. A pooler that pretraining left behind (sentence encoders do not use
        it) is a poor thing to freeze; peft and adapters freeze it by default.
      layers: encoder layers that the method changes or trains; negative numbers count from the
        top; empty: all. The head is trained in any case.
      unfreeze: regex on whole parameter paths of the backbone that are trained beside the
        method's own; empty: none.
    """

    train_pooler: bool = True
    layers: tuple[int, ...] = ()
    unfreeze: str = ""


@dataclass(frozen=True)
class Site:
    """The backbone that a method is applied to.

    Attributes:
      shapes: path -> ShapeDtypeStruct of its parameters, the classifier's included.
    """

    family: Family
    shapes: Params

    def dense_layers(self) -> list[str]:
        """Returns the module paths of the Dense layers in the encoder's layers."""
        paths = [path for path in self.shapes if path.endswith("/kernel")]
        modules = [path.removesuffix("/kernel") for path in paths]
        return [path for path in modules if self.family.layer_of(path) is not None]

    def in_layers(self, paths: list[str], layers: tuple[int, ...]) -> list[str]:
        """Returns the module paths that are in these encoder layers; all if none is given.

        Args:
          layers: numbers; negative ones count from the top.

        Raises:
          InputError: there is no such layer, or the layers are one.
        """
        if not layers:
            return paths
        if self.family.shares_layers:
            raise InputError(
                f"method.layers: the layers of {self.family.name} share their parameters, so all "
                "of them have what one has; leave it empty"
            )
        count = 1 + max(self.family.layer_of(path) or 0 for path in self.shapes)
        for layer in layers:
            if not -count <= layer < count:
                raise InputError(
                    f"method.layers: no layer {layer}; the encoder has {count}, 0 to {count - 1}"
                )
        chosen = {layer % count for layer in layers}
        return [path for path in paths if self.family.layer_of(path) in chosen]

    def trained_in(self, layers: tuple[int, ...], pattern: str) -> str:
        """Returns a regex on the parameters in these encoder layers that a regex matches.

        Args:
          layers: as of `in_layers`; empty gives the pattern itself, for layers and embeddings.
        """
        if not layers:
            return pattern
        paths = self.in_layers([p for p in self.shapes if re.fullmatch(pattern, p)], layers)
        return "|".join(map(re.escape, paths))


def no_axes(path: str, axes_of: Callable[[str], Axes]) -> Axes | None:
    """Names no axes: each device then holds the whole parameter."""
    del path, axes_of
    return None


def no_init(path: str, weights: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Keeps the value that the module drew."""
    del path, weights
    return None


@dataclass(frozen=True)
class Source:
    """A file that a method reads parameters from.

    Attributes:
      name: what it is, for env.json.
      where: its path, for messages.
      sha256: its digest.
      base: digests of the base model that it was trained on (`jaxft.run.build.model_digests`).
    """

    name: str
    where: str
    sha256: str
    base: Mapping[str, str]


@dataclass(frozen=True)
class Applied:
    """A method applied to a backbone.

    Attributes:
      rules: label every parameter; the first match wins.
      insertions: the modules that the method adds.
      axes: `(path, axes_of) -> logical axes` of a parameter that the method added; `axes_of` gives
        those of a parameter of the backbone. None divides it nowhere.
      init: `(path, weights) -> value` of a parameter that the method added, from the weights that
        were loaded (path -> float32 array), where its modules cannot know it: DoRA's magnitudes
        are norms of kernels. None keeps the value that the module drew. What is frozen must not
        depend on the seed: several seeds train together with the same frozen parameters.
      shared: parameters that all insertions use.
      sources: the files that it was made from.
      settled: options as a finished run's files have them, where the files that the options name
        must not be needed any more.
    """

    rules: tuple[Rule, ...]
    insertions: tuple[Insertion, ...] = ()
    axes: Callable[[str, Callable[[str], Axes]], Axes | None] = no_axes
    init: Callable[[str, Mapping[str, np.ndarray]], np.ndarray | None] = no_init
    shared: tuple[Shared, ...] = ()
    sources: tuple[Source, ...] = ()
    settled: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method of fine-tuning.

    Attributes:
      options: a frozen dataclass of its options, derived from `Options`; the fields are those of
        `config.method`, and `apply` checks their values.
      apply: `(site, options) -> Applied`.
      learning_rate: a peak that suits it.
      merge: `(parameters by path, options, site) -> the same without the method's own`, for a
        method that can be merged into the backbone.
    """

    name: str
    options: type[Options]
    apply: Callable[[Site, Any], Applied]
    learning_rate: float = 1e-3
    merge: Callable[[Params, Any, Site], Params] | None = None

    def read_options(self, given: Mapping[str, Any]) -> Options:
        """Returns the method's options out of the options of all methods.

        Options of other methods are ignored.

        Raises:
          InputError: no method has an option of that name.
        """
        known = {one.name for method in METHODS.values() for one in fields(method.options)}
        for name in given:
            check_choice(name, sorted(known), "method: option")
        own = {one.name for one in fields(self.options)}
        return self.options(**{name: value for name, value in given.items() if name in own})


METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Makes a method known by its name, in place of an earlier one, and returns it."""
    METHODS[method.name] = method
    return method


def find(name: str) -> Method:
    """Returns a method by its name.

    Raises:
      InputError: there is none of that name.
    """
    return METHODS[check_choice(name, METHODS, "method.name")]


def head_rules(site: Site, newly_initialised: list[str], options: Options) -> tuple[Rule, ...]:
    """Returns the rules that train the head, which come before every method's own.

    Args:
      newly_initialised: paths that the checkpoint lacks. A parameter that was drawn at random is
        never frozen (the pooler that a masked language model lacks).
    """
    family = site.family
    parts = [
        family.classifier,
        *([family.pooler] if family.pooler and options.train_pooler else []),
    ]
    is_head = re.compile("|".join(parts))
    paths = [p for p in site.shapes if is_head.fullmatch(p) or p in newly_initialised]
    return tuple(
        (re.escape(path), "head:no_decay" if path.endswith(("/bias", "/scale")) else "head")
        for path in paths
    )


def unfrozen_rules(site: Site, pattern: str) -> tuple[Rule, ...]:
    """Returns the rules that train the backbone's parameters that a regex matches.

    Raises:
      InputError: it is no regex, or matches no parameter.
    """
    if not pattern:
        return ()
    try:
        paths = [path for path in site.shapes if re.fullmatch(pattern, path)]
    except re.error as err:
        raise InputError(f"method.unfreeze: {pattern!r} is not a regex ({err})") from err
    if not paths:
        example = next(path for path in site.shapes if site.family.layer_of(path) is not None)
        raise InputError(
            f"method.unfreeze: {pattern!r} matches no parameter of the backbone; expected a regex "
            f"that matches whole paths such as {example}"
        )
    is_matrix = {path: len(site.shapes[path].shape) > 1 for path in paths}
    return tuple(
        (re.escape(path), "backbone" if is_matrix[path] else "backbone:no_decay") for path in paths
    )


def check_positive(value: int, field: str) -> None:
    """Raises InputError unless a whole number is above 0."""
    if value < 1:
        raise InputError(f"{field}: {value}; expected a whole number above 0")
