"""Prefix tuning: trained keys and values in each layer (Li & Liang 2021, https://arxiv.org/abs/2101.00190).

Every token attends to P trained keys, too: `softmax(q [Pk; K]' / sqrt(d)) [Pv; V]`. The keys and
values themselves are trained, without the paper's network in front of them, as in P-Tuning v2 (Liu
et al. 2022, https://arxiv.org/abs/2110.07602). Positions stay those of the tokens, as in the
adapters library. (peft 0.21 shifts BERT's by P with transformers 4.57 and fails with RoBERTa; with
transformers 5 it refuses both.)

It does not start as the backbone: whatever the keys are, they take a share of the attention.
"""

import re
from collections.abc import Callable, Set
from dataclasses import dataclass, replace

import jax
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models.attention import Tokens
from jaxft.models.family import Axes
from jaxft.peft.inject import Call, Insertion
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site, check_positive

START = nn.initializers.normal(0.02)


@dataclass(frozen=True)
class PrefixOptions(Options):
    """Prefix tuning's options.

    Attributes:
      prefix_length: P, trained keys and values of a layer.
    """

    prefix_length: int = 30


class Prefix(nn.Module):
    """The keys and values, each PxD, float32.

    Attributes:
      length: P.
      width: D, heads x head size.
    """

    length: int
    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        shape = (self.length, self.width)
        return self.param("key", START, shape), self.param("value", START, shape)


def before(attention_paths: Set[str], length: int) -> Insertion:
    """Returns the insertion of a prefix into these attention modules, as their child `prefix`.

    They are called as `module(x_BxLxD, tokens, ...)` and give `tokens` to
    `jaxft.models.attention.attend`.
    """

    def forward(call: Call) -> jax.Array:
        x_BxLxD, tokens, *others = call.args
        if not isinstance(tokens, Tokens):
            raise InputError(
                "method.name: 'prefix' needs jaxft's own attention; use model.implementation=jaxft"
            )
        parent = call.module.scope.push("prefix", reuse=True)
        prefix = Prefix(length, x_BxLxD.shape[-1], parent=parent)()
        return call.next_fun(x_BxLxD, replace(tokens, prefix=prefix), *others, **call.kwargs)

    return Insertion(frozenset(attention_paths), forward, wraps=True)


def apply(site: Site, options: PrefixOptions) -> Applied:
    """Inserts a prefix into the attention of each layer."""
    check_positive(options.prefix_length, "method.prefix_length")
    insertion = before(attentions(site, options.layers), options.prefix_length)
    rules = ((r".*/prefix/(key|value)", "adapter"), FROZEN)
    return Applied(rules, (insertion,), axes)


def attentions(site: Site, layers: tuple[int, ...]) -> set[str]:
    """Returns the paths of the attention modules: those that the queries' Dense layers are in.

    Raises:
      InputError: the family does not name them, or is a decoder, whose heads may share keys.
    """
    family, paths = site.family, site.in_layers(site.dense_layers(), layers)
    if "query" not in family.targets or family.tokens_labelled:
        raise InputError(
            f"method.name: 'prefix' puts keys and values before those of an encoder's attention, "
            f"which {family.name} does not have; use 'lora'"
        )
    return {
        path.rpartition("/")[0] for path in paths if re.fullmatch(family.targets["query"], path)
    }


def axes(path: str, axes_of: Callable[[str], Axes]) -> Axes:
    """Heads are divided over the devices, and a prefix with them."""
    del path, axes_of
    return (None, "heads")


PREFIX = Method("prefix", PrefixOptions, apply, learning_rate=5e-3)
