"""LoRA: a low-rank update beside a Dense layer (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

The layer computes `y = x W + b + s · dropout(x) A B` with the scale `s = alpha / rank`.

    query = "bert/encoder/layer/0/attention/self/query"
    insertion = beside({query}, rank=8, scale=2.0, dropout=0.1)
    merged = merge(params, LoraOptions(alpha=16), site)      # W + s A B, the backbone's paths

B starts at zero, so the model starts as it was. The variants are options:

- rsLoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732): `s = alpha / sqrt(rank)`.
- LoRA+ (Hayou et al. 2024, https://arxiv.org/abs/2402.12354): B's learning rate is `lr_ratio` times
  A's.
- PiSSA (Meng et al. 2024, https://arxiv.org/abs/2404.02948) and OLoRA (Büyükakyüz 2024,
  https://arxiv.org/abs/2406.01775): A and B start as a part of W. That part is subtracted in the
  layer, `y = x W + b + s · x (A B - A0 B0)`, so the backbone's kernel stays the one that all share.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn

from jaxft.errors import InputError, check_choice
from jaxft.models.backbone import Params
from jaxft.models.dropout import Dropout
from jaxft.models.family import Axes
from jaxft.peft.inject import Call, Insertion
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site, check_positive
from jaxft.peft.starts import FROM_WEIGHTS, INITS, start_of


@dataclass(frozen=True)
class LoraOptions(Options):
    """The options of LoRA.

    Attributes:
      rank: r, the width between A and B.
      alpha: the update is scaled by alpha / rank.
      dropout: rate on the input, in training only.
      targets: shorthands of the family (query, value, dense, ...) or regexes on module paths.
      rank_stabilized: whether the scale is alpha / sqrt(rank).
      rank_pattern: "TARGET=RANK" for the layers whose rank is another; the first match counts.
      alpha_pattern: the same of alpha.
      lora_init: of A: kaiming (uniform in ±1/sqrt(D)) or gaussian (of deviation 1/rank); or of A
        and B: pissa or olora.
      lr_ratio: the learning rate of B over that of A.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("query", "value")
    rank_stabilized: bool = False
    rank_pattern: tuple[str, ...] = ()
    alpha_pattern: tuple[str, ...] = ()
    lora_init: str = "kaiming"
    lr_ratio: float = 1.0


class LoRA(nn.Module):
    """x_BxLxD -> s · dropout(x) A B, of shape BxLxF; with a start, s · dropout(x) (A B - A0 B0).

    Attributes:
      features: F, the width of the Dense layer it belongs to.
      rank: r; A is Dxr and B is rxF, zero.
      scale: s.
      dropout: rate on the input, in training only.
      dtype: of the computation; A and B are float32.
      a_init: a key of `jaxft.peft.starts.INITS`.
      has_start: whether A0 and B0 are parameters as well. The method's `init` sets all four.
    """

    features: int
    rank: int
    scale: float
    dropout: float
    dtype: Any
    a_init: str = "kaiming"
    has_start: bool = False

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, deterministic: bool) -> jax.Array:
        x_BxLxD = Dropout(self.dropout)(x_BxLxD, deterministic=deterministic)
        update_BxLxF = self.product(x_BxLxD, "a", "b")
        if self.has_start:
            # Two products of the same shape, so that they are equal bit for bit at the start.
            update_BxLxF = update_BxLxF - self.product(x_BxLxD, "a_start", "b_start")
        return update_BxLxF

    def product(self, x_BxLxD: jax.Array, a: str, b: str) -> jax.Array:
        """Returns s · x A B by the names of the parameters."""
        a_Dxr = self.param(a, INITS[self.a_init](self.rank), (x_BxLxD.shape[-1], self.rank))
        b_rxF = self.param(b, nn.initializers.zeros, (self.rank, self.features))
        x_BxLxD, a_Dxr, b_rxF = nn.dtypes.promote_dtype(x_BxLxD, a_Dxr, b_rxF, dtype=self.dtype)
        # (x A) B, not x (A B): the product through the rank is what makes it cheap.
        return ((x_BxLxD @ a_Dxr) @ b_rxF) * self.scale


def beside(
    dense_paths: Set[str],
    *,
    rank: int,
    scale: float,
    dropout: float,
    init: str = "kaiming",
    has_start: bool = False,
) -> Insertion:
    """Returns the insertion of a LoRA beside each of these Dense layers, as their child `lora`."""

    def forward(call: Call) -> jax.Array:
        dense = call.module
        x_BxLxD, *_ = call.args
        lora = LoRA(
            dense.features,
            rank,
            scale,
            dropout,
            dense.dtype,
            init,
            has_start,
            parent=dense.scope.push("lora", reuse=True),
        )
        return call.next_fun(*call.args, **call.kwargs) + lora(x_BxLxD, call.deterministic)

    return Insertion(frozenset(dense_paths), forward, wraps=True)


def merge(params: Params, options: LoraOptions, site: Site) -> Params:
    """Returns the parameters with every LoRA added into its kernel, and no LoRA.

    Args:
      params: all parameters by path, frozen and trained.
      options: those of training.
    """
    found = ranks_and_scales(site, options)
    return folded(params, {dense: scale for dense, (_, scale) in found.items()})


def folded(params: Params, scales: Mapping[str, float]) -> Params:
    """Returns the parameters with the LoRAs of these Dense layers added into their kernels.

    Args:
      scales: module path -> s.
    """
    merged = {path: x for path, x in params.items() if "/lora/" not in path}
    for dense, scale in scales.items():
        merged[f"{dense}/kernel"] = merged[f"{dense}/kernel"] + scale * update_of(params, dense)
    return merged


def update_of(params: Mapping[str, Any], dense: str) -> Any:
    """Returns A B, or A B - A0 B0, DxF, of the LoRA beside a Dense layer."""
    own = f"{dense}/lora"
    update_DxF = params[f"{own}/a"] @ params[f"{own}/b"]
    if f"{own}/a_start" in params:
        update_DxF = update_DxF - params[f"{own}/a_start"] @ params[f"{own}/b_start"]
    return update_DxF


def apply(site: Site, options: LoraOptions) -> Applied:
    """Inserts a LoRA beside the Dense layers that the targets name."""
    found = ranks_and_scales(site, options)
    has_start = options.lora_init in FROM_WEIGHTS
    insertions = tuple(
        beside(
            paths,
            rank=rank,
            scale=scale,
            dropout=options.dropout,
            # Drawn and then replaced, where A starts from the weights.
            init="kaiming" if has_start else options.lora_init,
            has_start=has_start,
        )
        for (rank, scale), paths in grouped(found).items()
    )
    init = start_of(options.lora_init, found) if has_start else Applied.init
    return Applied(rules(options), insertions, axes, init)


def rules(options: LoraOptions) -> tuple[tuple[str, str], ...]:
    """Returns the rules that train A and B."""
    if options.lr_ratio == 1.0:
        return (r".*/lora/[ab]", "adapter"), FROZEN
    fast = f"adapter:rate={options.lr_ratio:g}"
    return (r".*/lora/a", "adapter"), (r".*/lora/b", fast), FROZEN


def ranks_and_scales(site: Site, options: LoraOptions) -> dict[str, tuple[int, float]]:
    """Returns the Dense layers that get a LoRA, by module path, with its rank and its scale.

    Raises:
      InputError: an option is out of range, or a pattern matches no layer that the targets name.
    """
    check_positive(options.rank, "method.rank")
    check_above_zero(options.alpha, "method.alpha")
    check_above_zero(options.lr_ratio, "method.lr_ratio")
    check_choice(options.lora_init, (*INITS, *FROM_WEIGHTS), "method.lora_init")
    if not 0 <= options.dropout < 1:
        raise InputError(f"method.dropout: {options.dropout}; expected a rate in [0, 1)")
    chosen = matching(site, site.in_layers(site.dense_layers(), options.layers), options.targets)
    ranks = by_pattern(site, chosen, options.rank_pattern, "rank_pattern", options.rank)
    alphas = by_pattern(site, chosen, options.alpha_pattern, "alpha_pattern", options.alpha)
    found = {}
    for dense in sorted(chosen):
        rank, alpha = int(ranks[dense]), alphas[dense]
        if options.lora_init in FROM_WEIGHTS:
            check_rank(rank, site.shapes[f"{dense}/kernel"].shape, options.lora_init)
        found[dense] = (rank, alpha / (math.sqrt(rank) if options.rank_stabilized else rank))
    return found


def grouped(found: Mapping[str, tuple[int, float]]) -> dict[tuple[int, float], set[str]]:
    """Returns `(rank, scale)` -> the module paths that have both: one insertion serves them."""
    return {
        values: {path for path, own in found.items() if own == values}
        for values in sorted(set(found.values()))
    }


def by_pattern(
    site: Site, paths: Iterable[str], patterns: tuple[str, ...], option: str, default: float
) -> dict[str, float]:
    """Returns each module path's value by patterns "TARGET=VALUE", or else the default.

    Raises:
      InputError: a pattern has no valid value, or matches no path.
    """
    paths = sorted(paths)
    found: dict[str, float] = {}
    for pattern in patterns:
        target, equals, text = pattern.rpartition("=")
        value = float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else 0.0
        is_valid = value > 0 and (option != "rank_pattern" or value == int(value))
        if not equals or not is_valid:
            kind = "RANK, a whole number above 0" if option == "rank_pattern" else "ALPHA"
            raise InputError(
                f"method.{option}: {pattern!r}; expected TARGET={kind}, for example value=16"
            )
        for path in matching(site, paths, (target,), option):
            found.setdefault(path, value)
    return {path: found.get(path, default) for path in paths}


def check_above_zero(value: float, field: str) -> None:
    """Raises InputError unless a number is above 0 and finite."""
    if not 0 < value < math.inf:
        raise InputError(f"{field}: {value}; expected a number above 0")


def check_rank(rank: int, shape: tuple[int, ...], init: str) -> None:
    """Raises InputError if a kernel has no start of this rank."""
    if rank > min(shape):
        raise InputError(
            f"method.rank: {rank}; a kernel of {shape[0]} x {shape[1]} has a start of rank "
            f"{min(shape)} at most for method.lora_init={init}"
        )


def axes(path: str, axes_of: Callable[[str], Axes]) -> Axes:
    """The axes of A and B: those of the kernel that they belong to, with the rank between."""
    dense, _, leaf = path.rpartition("/lora/")
    into, out = axes_of(f"{dense}/kernel")
    return (into, "rank") if leaf.startswith("a") else ("rank", out)


def matching(
    site: Site, paths: Iterable[str], targets: tuple[str, ...], option: str = "targets"
) -> set[str]:
    """Returns the module paths that some target matches.

    Raises:
      InputError: no target is given, or one is no regex, or one matches nothing.
    """
    paths = list(paths)
    shorthands = site.family.targets
    names = ", ".join(shorthands)
    if not targets:
        raise InputError(f"method.{option}: empty; expected some of {names} or a regex")
    found: set[str] = set()
    for target in targets:
        try:
            hits = {path for path in paths if re.fullmatch(shorthands.get(target, target), path)}
        except re.error as err:
            raise InputError(f"method.{option}: {target!r} is not a regex ({err})") from err
        if not hits:
            raise InputError(
                f"method.{option}: {target!r} matches no Dense layer; expected some of {names} "
                f"or a regex that matches whole paths such as {paths[0]}"
            )
        found |= hits
    return found


LORA = Method("lora", LoraOptions, apply, learning_rate=1e-3, merge=merge)
