"""Attention of all encoders, in one function.

    context_BxLxHxK = attend(q, k, v, Tokens(mask_BxL), rate=0.1, key=dropout_key)

Dropout is element-wise, as in the paper (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) and
in torch: each head and each row has a mask of its own.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxft.data.layout import Layout
from jaxft.errors import InputError
from jaxft.models.dropout import Numbers, keep_mask

IMPLEMENTATIONS = ("xla", "cudnn")
# A layout is no array: what is compiled with one depends on it.
jax.tree_util.register_static(Layout)


class Texts(NamedTuple):
    """Where the texts of rows are that several share.

    Attributes:
      layout: the places of a row.
      source, home: int32 RxW and RxT: which token is at each token of the places, and where each
        token is; -1 is padding.
    """

    layout: Layout
    source: jax.Array
    home: jax.Array


@struct.dataclass
class Tokens:
    """What attention must know of a batch's tokens.

    Attributes:
      mask: above 0 at tokens, 0 at padding; int32 BxL.
      texts: where the texts are, if several share a row (then B is its rows and L its width): a
        token attends to those of its own text alone. None: a row is one text.
      positions: place of each token in its text, int32 BxL; for rotary positions.
      bias: added to the scores, HxLxL; for relative positions.
      prefix: keys and values before those of the tokens, each PxD in the heads' order; every token
        attends to them. For prefix tuning, which adds them in each layer.
      numbers: of each text in its batch, uint32 B, and the most tokens that any has, to draw the
        same dropout wherever it is. None: its row and the length of the rows.
      first_only: whether a layer computes its output for the first token of each text alone,
        because nothing reads those of the others (`queried`).
    """

    mask: jax.Array
    texts: Texts | None = None
    positions: jax.Array | None = None
    bias: jax.Array | None = None
    prefix: tuple[jax.Array, jax.Array] | None = None
    numbers: tuple[np.ndarray, int] | None = None
    first_only: bool = struct.field(pytree_node=False, default=False)


def attend(
    q_BxLxHxK: jax.Array,
    k_BxLxHxK: jax.Array,
    v_BxLxHxK: jax.Array,
    tokens: Tokens,
    *,
    rate: float = 0.0,
    key: jax.Array | None = None,
    window: int | None = None,
    causal: bool = False,
    implementation: str = "xla",
) -> jax.Array:
    """Returns `dropout(softmax(q k' / sqrt(K) + bias)) v`, BxLxHxK, in the dtype of `q`.

    With `tokens.first_only` the queries and the result are those of `first_tokens`, Bx1xHxK.

    Args:
      rate: of dropout on the attention weights.
      key: of dropout; None drops nothing.
      window: how far to either side a token sees; None is everywhere.
      causal: whether a token sees those before it and itself only.
      implementation: `cudnn` takes 16-bit inputs without dropout, bias, window or prefix (`check`),
        and tokens at the start of their rows.
    """
    if tokens.texts is not None:
        options = {"window": window, "causal": causal, "implementation": implementation}
        qkv = (q_BxLxHxK, k_BxLxHxK, v_BxLxHxK)
        return attend_by_part(qkv, tokens, tokens.texts, rate, key, **options)
    drops = key is not None and rate > 0.0
    if implementation == "cudnn":
        if drops or any(x is not None for x in (tokens.bias, window, tokens.prefix)):
            raise InputError(
                "model.attention: cuDNN's attention has no dropout, bias, window or prefix; use "
                "model.attention=xla"
            )
        return attend_with_cudnn(q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, tokens.mask, causal)
    dtype = q_BxLxHxK.dtype
    if tokens.prefix is not None:
        k_BxLxHxK, v_BxLxHxK = map(after_prefix, tokens.prefix, (k_BxLxHxK, v_BxLxHxK))
    scale = jnp.sqrt(q_BxLxHxK.shape[-1]).astype(dtype)
    scores_BxHxLxL = jnp.einsum("bqhk,blhk->bhql", q_BxLxHxK / scale, k_BxLxHxK)
    queries = q_BxLxHxK.shape[1]  # the first ones
    if tokens.bias is not None:
        bias_HxLxL = tokens.bias[:, :queries].astype(dtype)
        scores_BxHxLxL = scores_BxHxLxL + for_prefix(bias_HxLxL, tokens)
    unseen = padding_bias(tokens, dtype, queries, window, causal)
    scores_BxHxLxL = scores_BxHxLxL + for_prefix(unseen, tokens)
    if drops:
        assert key is not None
        kept = kept_weights(key, 1.0 - rate, scores_BxHxLxL.shape, tokens)
        weights_BxHxLxL = dropped_softmax(scores_BxHxLxL, kept, 1.0 - rate)
    else:
        weights_BxHxLxL = softmax(scores_BxHxLxL)
    return jnp.einsum("bhql,blhk->bqhk", weights_BxHxLxL, v_BxLxHxK)


def attend_with_cudnn(
    q_BxLxHxK: jax.Array,
    k_BxLxHxK: jax.Array,
    v_BxLxHxK: jax.Array,
    mask_BxL: jax.Array,
    causal: bool,
) -> jax.Array:
    """Returns cuDNN's attention, BxLxHxK; tokens are at the start of their rows."""
    # At least 1: a place without a text would be a softmax over nothing.
    lengths_B = jnp.maximum((mask_BxL > 0).sum(-1, dtype=jnp.int32), 1)
    return jax.nn.dot_product_attention(
        q_BxLxHxK,
        k_BxLxHxK,
        v_BxLxHxK,
        key_value_seq_lengths=lengths_B,
        is_causal=causal,
        implementation="cudnn",
    )


def kept_weights(key: jax.Array, keep: float, shape: tuple[int, ...], tokens: Tokens) -> jax.Array:
    """Returns which attention weights dropout keeps, booleans BxHxLxL or BxHxLx(P+L)."""
    (rows, heads, _, keys), length = shape, tokens.mask.shape[1]
    texts_B, longest = tokens.numbers or (jnp.arange(rows), length)
    return keep_mask(key, keep, shape, texts_B, (heads, longest, longest + keys - length))


def attend_by_part(
    qkv_RxTxHxK: tuple[jax.Array, jax.Array, jax.Array],
    tokens: Tokens,
    texts: Texts,
    rate: float,
    key: jax.Array | None,
    **options: Any,
) -> jax.Array:
    """Returns the same of rows that several texts share, RxTxHxK: each part as texts by the row."""
    found, layout = [], texts.layout
    q, *others = (*qkv_RxTxHxK, tokens.mask)
    queries = of_parts(q, layout) if tokens.first_only else by_text(q, texts)
    parts = [queries, *(by_text(x, texts) for x in others)]
    numbers = of_parts(layout.numbers.ravel(), layout)
    for number_B, q, k, v, mask in zip(numbers, *parts, strict=True):
        length = mask.shape[1]
        bias = None if tokens.bias is None else tokens.bias[..., :length, :length]
        numbered = (number_B, layout.longest)
        own = Tokens(mask, bias=bias, prefix=tokens.prefix, numbers=numbered)
        found.append(attend(q, k, v, own, rate=rate, key=key, **options))
    if tokens.first_only:
        return side_by_side(found, layout).reshape(-1, *found[0].shape[1:])
    return by_row(found, texts)


def of_parts(x_Nx: Any, layout: Layout) -> list[Any]:
    """Returns the places of each part, B..., of an array with a row for each place of all rows."""
    ends = np.cumsum([count for count, _ in layout.parts])
    x_RxSx = x_Nx.reshape(layout.rows, layout.in_row, *x_Nx.shape[1:])
    parts = [x_RxSx[:, start:end] for start, end in pairwise([0, *ends])]
    return [part.reshape(-1, *x_Nx.shape[1:]) for part in parts]


def numbers_of(ids_BxL: jax.Array, texts: Texts | None) -> Numbers:
    """Returns the numbers by which dropout counts the tokens and the texts of a batch."""
    if texts is None:
        rows, length = ids_BxL.shape
        start_B = jnp.arange(rows, dtype=jnp.uint32) * length
        token_BxL = start_B[:, None] + jnp.arange(length, dtype=jnp.uint32)
        return Numbers(token_BxL, start_B, jnp.arange(rows, dtype=jnp.uint32))
    layout = texts.layout
    number_RxW = jnp.asarray(layout.token_numbers.astype(np.uint32))
    number_N = jnp.asarray(layout.numbers.ravel())
    return Numbers(taken(number_RxW, texts.home), number_N * layout.longest, number_N)


def by_text(x_RxTx: jax.Array, texts: Texts) -> list[jax.Array]:
    """Returns each part of a row's places with a row for each text, BxL..., B = rows x places.

    What is no token is 0.
    """
    x_RxWx = moved(x_RxTx, texts.source, texts.home)
    found, start = [], 0
    for count, length in texts.layout.parts:
        part = x_RxWx[:, start : start + count * length]
        found.append(part.reshape(-1, length, *x_RxWx.shape[2:]))
        start += count * length
    return found


def by_row(parts: Sequence[jax.Array], texts: Texts) -> jax.Array:
    """Returns the parts of `by_text` as the tokens of the rows again, RxT..."""
    return moved(side_by_side(parts, texts.layout), texts.home, texts.source)


def side_by_side(parts: Sequence[jax.Array], layout: Layout) -> jax.Array:
    """Returns parts BxL... as rows, RxW..., or Bx1... as RxS..."""
    rows = [part.reshape(layout.rows, -1, *part.shape[2:]) for part in parts]
    return jnp.concatenate(rows, axis=1)


@jax.custom_vjp
def moved(x_RxTx: jax.Array, source_RxW: jax.Array, home_RxT: jax.Array) -> jax.Array:
    """Returns `x[r, source[r, w]]` at each w, RxW..., and 0 where the source is -1.

    The backward pass takes by `home`, the reverse of `source`: the gradient of a gather would be a
    scatter, which XLA does one by one on the CPU.
    """
    del home_RxT
    return taken(x_RxTx, source_RxW)


def moved_forward(
    x_RxTx: jax.Array, source_RxW: jax.Array, home_RxT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the result, and what the backward pass needs."""
    return taken(x_RxTx, source_RxW), home_RxT


def moved_backward(home_RxT: jax.Array, grad_RxWx: jax.Array) -> tuple[jax.Array, None, None]:
    """Returns the gradient by the first argument."""
    return taken(grad_RxWx, home_RxT), None, None


moved.defvjp(moved_forward, moved_backward)


def taken(x_RxTx: jax.Array, places_RxW: jax.Array) -> jax.Array:
    """Returns `x[r, places[r, w]]`, 0 where a place is -1."""
    places_RxWx = jnp.expand_dims(places_RxW, tuple(range(2, x_RxTx.ndim)))
    found_RxWx = jnp.take_along_axis(x_RxTx, jnp.maximum(places_RxWx, 0), axis=1)
    return jnp.where(places_RxWx >= 0, found_RxWx, jnp.zeros((), x_RxTx.dtype))


def first_tokens(x_BxLx: jax.Array, tokens: Tokens) -> jax.Array:
    """Returns each text's first token, Bx1...; those of a shared row in the order of its places."""
    if tokens.texts is None:
        return x_BxLx[:, :1]
    starts, source_RxW = tokens.texts.layout.starts, tokens.texts.source
    first_RxSx = taken(x_BxLx, source_RxW[:, starts])
    return first_RxSx.reshape(-1, 1, *x_BxLx.shape[2:])


def queried(x_BxLx: jax.Array, tokens: Tokens) -> jax.Array:
    """Returns the tokens whose outputs a layer computes: all, or the first of each text alone.

    A classifier on the first token reads no other output of the last layer. There, only keys and
    values are needed of all tokens: a sixth of the layer's multiplications.
    """
    return first_tokens(x_BxLx, tokens) if tokens.first_only else x_BxLx


def after_prefix(prefix_PxD: jax.Array, x_BxLxHxK: jax.Array) -> jax.Array:
    """Returns keys or values after those of a prefix, Bx(P+L)xHxK."""
    rows, _, *heads = x_BxLxHxK.shape
    prefix_PxHxK = prefix_PxD.astype(x_BxLxHxK.dtype).reshape(-1, *heads)
    prefix_BxPxHxK = jnp.broadcast_to(prefix_PxHxK, (rows, *prefix_PxHxK.shape))
    return jnp.concatenate([prefix_BxPxHxK, x_BxLxHxK], axis=1)


def for_prefix(bias: jax.Array, tokens: Tokens) -> jax.Array:
    """Returns a bias of the scores, ...xLxL, with zeros for the keys of a prefix: ...xLx(P+L)."""
    if tokens.prefix is None:
        return bias
    before = [(0, 0)] * (bias.ndim - 1) + [(tokens.prefix[0].shape[0], 0)]
    return jnp.pad(bias, before)


def rotated(x_BxLxHxK: jax.Array, positions_BxL: jax.Array, theta: float) -> jax.Array:
    """Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864), halves of K paired."""
    size = x_BxLxHxK.shape[-1]
    frequency_K = theta ** -(jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle_BxLx1xK = (positions_BxL[..., None] * jnp.tile(frequency_K, 2))[:, :, None, :]
    left, right = jnp.split(x_BxLxHxK, 2, axis=-1)
    turned = jnp.concatenate([-right, left], axis=-1)
    found = x_BxLxHxK * jnp.cos(angle_BxLx1xK) + turned * jnp.sin(angle_BxLx1xK)
    return found.astype(x_BxLxHxK.dtype)


def padding_bias(
    tokens: Tokens, dtype: Any, queries: int, window: int | None, causal: bool
) -> jax.Array:
    """Returns 0 where a query sees a key and the least number of `dtype` elsewhere, Bx1x?xL."""
    sees = (tokens.mask > 0)[:, None, None, :]
    places_L = jnp.arange(tokens.mask.shape[1])
    query_Qx1 = places_L[:queries, None]
    if causal:
        sees = sees & (query_Qx1 >= places_L)
    if window is not None:
        sees = sees & (jnp.abs(query_Qx1 - places_L) <= window)
    # Half of float16's: added to a negative score, its least number would be -inf.
    least = jnp.finfo(dtype).min / (2 if dtype == jnp.float16 else 1)
    return jnp.where(sees, 0.0, least).astype(dtype)


def softmax(scores: jax.Array) -> jax.Array:
    """Softmax over the last axis, computed in float32 and returned in the dtype of `scores`."""
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(scores.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def dropped_softmax(scores: jax.Array, kept: jax.Array, keep: float) -> jax.Array:
    """Returns `where(kept, softmax(scores) / keep, 0)` over the last axis.

    Its backward pass keeps the weights before and after dropout, which attention needs anyway, and
    not the mask, which would be a quarter of their bytes again in float32 and half in 16 bit.
    """
    return dropped_softmax_forward(scores, kept, keep)[0]


def dropped_softmax_forward(
    scores: jax.Array, kept: jax.Array, keep: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the result, and what the backward pass needs."""
    weights = softmax(scores)
    dropped = jnp.where(kept, weights / jnp.asarray(keep, weights.dtype), 0)
    return dropped, (weights, dropped)


def dropped_softmax_backward(
    keep: float, kept: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, None]:
    """With p the weights, d those after dropout and g the gradient by d, by the scores it is

        p (m g / keep) - p sum(p m g / keep) = d g - p sum(d g)

    since d = p m / keep: the mask m is not needed.
    """
    del keep
    weights, dropped = (x.astype(jnp.float32) for x in kept)
    product = dropped * grad.astype(jnp.float32)
    by_scores = product - weights * product.sum(axis=-1, keepdims=True)
    return by_scores.astype(grad.dtype), None


dropped_softmax.defvjp(dropped_softmax_forward, dropped_softmax_backward)


def check(implementation: str, dtype: Any, head_size: int, rate: float) -> str | None:
    """Returns why an implementation cannot compute a model's attention; None if it can.

    Args:
      rate: of dropout on the attention weights.
    """
    if implementation != "cudnn":
        return None
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN's attention wants model.dtype bfloat16 or float16, not {jnp.dtype(dtype)}"
    if head_size > 128 or head_size % 8:
        return f"cuDNN's attention wants heads of 8, 16, ..., 128, not {head_size}"
    if rate > 0:
        return f"cuDNN's attention has no dropout, the model has {rate} (model.attention_dropout=0)"
    return None if has_cudnn() else "cuDNN is not on this machine; JAX needs it to plan as well"


def has_cudnn() -> bool:
    """Whether JAX finds cuDNN, which it looks for when it traces."""
    x_BxLxHxK = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
    try:
        jax.eval_shape(
            partial(jax.nn.dot_product_attention, implementation="cudnn"),
            *(x_BxLxHxK, x_BxLxHxK, x_BxLxHxK),
        )
    except RuntimeError:
        return False
    return True
