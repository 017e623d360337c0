"""AdapterFusion: attention over trained adapters (Pfeiffer et al. 2021, https://arxiv.org/abs/2005.00247).

    python -m jaxft.train --config configs/acl.py:fusion --config.method.adapters=runs/a,runs/b

The adapters, of finished runs over the same base model, are frozen. In each block all of them read
x; the trained attention of x to what they give, u_1 ... u_N, weighs it. The block computes
`sum_n softmax_n((x Q + q) · (u_n K + k)) u_n V`,
as adapters' BertFusion computes it: the scores are not scaled, and V starts as the identity. So at
the start the fusion of one adapter is that adapter, up to 1e-6 times the sum of its outputs. To the
loss, adapters also adds 0.01 times the squared distance of V from the identity; jaxft does not.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxft.errors import InputError, check_choice
from jaxft.models import trained as trained_files
from jaxft.models.dropout import Dropout
from jaxft.models.family import Axes
from jaxft.peft import bottleneck
from jaxft.peft.bottleneck import LIKE_BERT, Adapt, BottleneckOptions, Insert
from jaxft.peft.inject import Call
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site, Source

# Method of the adapters -> the blocks that have one, and where they are inserted.
PLACES: dict[str, tuple[tuple[str, ...], Insert]] = {
    "houlsby": (("attention", "ffn"), bottleneck.before_norm),
    "pfeiffer": (("ffn",), bottleneck.around_norm),
}


@dataclass(frozen=True)
class FusionOptions(Options):
    """AdapterFusion's options.

    Attributes:
      adapters: directories of finished runs, or their folders adapter/. A finished fusion has
        copies of their parameters, and their `Trained.fields` here.
      dropout: rate on the scores, in training only.
    """

    adapters: tuple[str | Mapping[str, Any], ...] = ()
    dropout: float = 0.1


@dataclass(frozen=True)
class Trained:
    """An adapter to be fused.

    Attributes:
      where: its folder; empty if the parameters come with those of the fusion.
      fields: its method's name, `size`, `activation` and `layers`.
      leaves: path without the adapter's name -> array.
    """

    where: str
    fields: Mapping[str, Any]
    leaves: Mapping[str, np.ndarray]
    source: tuple[Source, ...] = ()

    @property
    def options(self) -> BottleneckOptions:
        """Its bottleneck's."""
        return BottleneckOptions(size=self.fields["size"], activation=self.fields["activation"])


class Fusion(nn.Module):
    """x_BxLxD, u_BxLxNxD -> the weighted u_n V, BxLxD.

    Attributes:
      dropout: rate on the scores, in training only.
    """

    dropout: float

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, u_BxLxNxD: jax.Array, deterministic: bool) -> jax.Array:
        width, dtype = x_BxLxD.shape[-1], x_BxLxD.dtype
        query = nn.Dense(width, dtype=dtype, kernel_init=LIKE_BERT, name="query")
        key = nn.Dense(width, dtype=dtype, kernel_init=LIKE_BERT, name="key")
        value = nn.Dense(width, False, dtype=dtype, kernel_init=near_identity, name="value")
        scores_BxLxN = jnp.einsum("bld,blnd->bln", query(x_BxLxD), key(u_BxLxNxD))
        scores_BxLxN = Dropout(self.dropout)(scores_BxLxN, deterministic=deterministic)
        weights_BxLxN = jax.nn.softmax(scores_BxLxN.astype(jnp.float32)).astype(dtype)
        return jnp.einsum("bln,blnd->bld", weights_BxLxN, value(u_BxLxNxD))


def near_identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """One on the diagonal and 1e-6 elsewhere, as in the adapters library."""
    del key
    return jnp.where(jnp.eye(shape[0], shape[1], dtype=bool), 1, 1e-6).astype(dtype)


def fused(adapters: list[Trained], dropout: float) -> Adapt:
    """Returns a block's adapters `adapter_0`, `adapter_1`, ... and their `fusion`."""
    parts = [bottleneck.bottleneck(x.options, f"adapter_{n}") for n, x in enumerate(adapters)]

    def adapt(call: Call, x_BxLxD: jax.Array) -> jax.Array:
        u_BxLxNxD = jnp.stack([part(call, x_BxLxD) for part in parts], axis=-2)
        fusion = Fusion(dropout, parent=call.module.scope.push("fusion", reuse=True))
        return fusion(x_BxLxD, u_BxLxNxD, call.deterministic)

    return adapt


def apply(site: Site, options: FusionOptions) -> Applied:
    """Inserts the adapters and their fusion where the adapters were trained."""
    if not options.adapters:
        raise InputError(
            "method.adapters: empty; expected directories of finished runs of "
            f"{' or '.join(PLACES)}, e.g. runs/a,runs/b"
        )
    if options.layers:
        raise InputError("method.layers: a fusion is where its adapters are; leave it empty")
    adapters = [read(site, part) for part in options.adapters]
    first = adapters[0]
    for other in adapters[1:]:
        if any(first.fields[name] != other.fields[name] for name in ("name", "layers")):
            raise InputError(
                f"method.adapters: {first.where} and {other.where} have their adapters in "
                "different places; expected runs of one method in the same layers"
            )
    names, around = PLACES[first.fields["name"]]
    places, norms = bottleneck.located(site, tuple(first.fields["layers"]), names)
    insert = around if norms else bottleneck.after_dense

    def init(path: str, weights: Mapping[str, np.ndarray]) -> np.ndarray | None:
        del weights
        block, found, leaf = path.partition("/adapter_")
        if not found:
            return None
        number, _, leaf = leaf.partition("/")
        adapter = adapters[int(number)]
        if not adapter.where:
            raise InputError(
                f"method.adapters: {dict(adapter.fields)} is not a directory; the adapters of a "
                "finished fusion are in its run"
            )
        return adapter.leaves[f"{block}/{leaf}"]

    rules = (
        (r".*/fusion/(query|key)/bias", "adapter:no_decay"),
        (r".*/fusion/value/kernel", "adapter:no_decay"),  # it starts as the identity, not as 0
        (r".*/fusion/(query|key)/kernel", "adapter"),
        FROZEN,
    )
    return Applied(
        rules,
        (insert(places, fused(adapters, options.dropout)),),
        axes,
        init,
        sources=tuple(source for adapter in adapters for source in adapter.source),
        settled={"adapters": [dict(adapter.fields) for adapter in adapters]},
    )


def read(site: Site, part: str | Mapping[str, Any]) -> Trained:
    """Returns an adapter from the directory of its run, or as a finished fusion describes it.

    Raises:
      InputError: there is none, or it is of another method, or it trained more than an adapter.
    """
    if not isinstance(part, str):
        return Trained("", part, {})
    folder = Path(part) / "adapter" if (Path(part) / "adapter").is_dir() else Path(part)
    leaves, settings = trained_files.load(folder)
    method = settings["method"]
    check_choice(method["name"], PLACES, f"{folder}: method.name")
    parts = (site.family.classifier, site.family.pooler)
    for path in sorted(leaves):
        is_head = any(pattern and re.fullmatch(pattern, path) for pattern in parts)
        if path in site.shapes and not is_head:
            raise InputError(f"{folder}: trained {path} as well, which a fusion cannot have")
    own = {p.replace("/adapter/", "/"): x for p, x in leaves.items() if "/adapter/" in p}
    fields = {name: method[name] for name in ("name", "size", "activation", "layers")}
    base = settings.get("base_model", {}).get("sha256", {"weights": settings["weights_sha256"]})
    digest = hashlib.sha256((folder / trained_files.LEAVES).read_bytes()).hexdigest()
    source = Source(f"adapter {part}", str(folder), digest, base)
    return Trained(str(folder), fields, own, (source,))


def axes(path: str, axes_of: Callable[[str], Axes]) -> Axes | None:
    """The fusion's kernels are divided as adapters are: not over a tensor-parallel group."""
    if "/fusion/" not in path:
        return bottleneck.axes(path, axes_of)
    return ("embed", None) if path.endswith("/kernel") else (None,)


FUSION = Method("fusion", FusionOptions, apply, learning_rate=1e-4)
