"""Shapes first: from a checkpoint directory and a method to a model, its labels and its state.

    model = build_model(backbone, newly_initialised, "lora", {"rank": 8})
    optimizer = make_optimizer(model.labels, schedule, weight_decay=0.01, clip=1.0, accumulate=1)
    shapes, frozen_shapes = state_shapes(model, optimizer, mesh)          # nothing allocated
    state, frozen = init_state(model, optimizer, weights, seed=0, mesh=mesh)

The abstract state is what gets compiled, restored into and counted, so all of them are one program.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jaxft.models import backbone as backbones
from jaxft.models import quantised
from jaxft.models.backbone import Backbone, Params
from jaxft.models.family import Axes
from jaxft.models.kept import Kept, below
from jaxft.models.kept import forward as forward_above
from jaxft.peft.inject import Injected, check_same_insertions
from jaxft.peft.methods import Applied, build
from jaxft.training import frozen as storage
from jaxft.training.mesh import put, replicated
from jaxft.training.partition import count, label_tree, parameter_of, partition_of, split
from jaxft.training.sharding import param_shardings
from jaxft.training.step import Forward, State


@dataclass(frozen=True)
class Model:
    """A backbone with a method applied to it.

    Attributes:
      module: the backbone's module with the method's modules.
      method: its name.
      labels: path -> label.
      shapes: path -> ShapeDtypeStruct, of all parameters; the trained ones are float32.
      axes: path -> the logical axes of its dimensions (`jaxft.models.family`).
      forward: `(params, batch, dropout_key) -> logits_BxC`.
      quantised: path -> ShapeDtypeStruct of the kernels in whose place `labels`, `shapes` and
        `axes` have codes and scales (`jaxft.models.quantised`).
      kept: the layers whose outputs are kept; None if all of them are computed at each step.
      trains_backbone: whether parameters of the backbone are trained, beside those of the head.
    """

    backbone: Backbone
    module: nn.Module
    method: str
    applied: Applied
    labels: dict[str, str]
    shapes: Params
    axes: dict[str, Axes]
    forward: Forward
    quantised: Params = field(default_factory=dict)
    kept: Kept | None = None
    trains_backbone: bool = False


def build_model(
    backbone: Backbone,
    newly_initialised: list[str],
    method: str,
    options: Mapping[str, Any],
    own: Params | None = None,
) -> Model:
    """Returns the model of a method; computes shapes only.

    Args:
      newly_initialised: paths that the checkpoint lacks (`jaxft.models.weights.read`).
      options: of the method, by name.
      own: the shapes of the backbone's parameters, if the caller has them: to trace a model for
        them takes a fifth of a second.
    """
    own = own or backbones.parameter_shapes(backbone)
    applied = build(method, backbone.family, own, newly_initialised, options)
    module = Injected(backbone.module, applied.insertions, applied.shared)
    is_changed = applied.insertions or applied.shared
    shapes = backbones.parameter_shapes(backbone, module) if is_changed else dict(own)
    labels = label_tree(shapes, applied.rules)
    axes_of = backbone.family.axes_of
    axes = {
        path: (axes_of(path) if path in own else applied.axes(path, axes_of)) or ()
        for path in shapes
    }
    shapes = storage.stored_shapes(backbone, shapes, labels)
    kernels = storage.quantised_kernels(backbone, method, own, labels)
    if kernels:
        shapes, axes = storage.with_parts(backbone.frozen_dtype, kernels, shapes, axes)
        labels = {path: labels.get(path, "frozen") for path in shapes}
        insertions = (storage.on_codes(kernels), *applied.insertions)
        applied = replace(applied, insertions=insertions)
        module = Injected(backbone.module, insertions, applied.shared)
    if backbone.scans:
        check_same_insertions(applied.insertions, backbone.family, shapes)
    kept, forward = None, partial(backbones.forward, backbone, module)
    if backbone.keep_frozen:
        plain = backbone.computed(remat="none")  # see `jaxft.training.programs.kept_program`
        lower = Injected(plain.module, applied.insertions, applied.shared)
        kept = below(plain, lower, shapes, split(shapes, labels)[0])
        forward = partial(forward_above, backbone, module, kept.layers, kept.unused)
    return Model(
        backbone=backbone,
        module=module,
        method=method,
        applied=applied,
        labels=labels,
        shapes=shapes,
        axes=axes,
        forward=forward,
        quantised=kernels,
        kept=kept,
        trains_backbone=any(
            partition_of(labels[path]) in ("backbone", "adapter")
            for path in own.keys() & labels.keys()
        ),
    )


def count_parameters(model: Model) -> dict[str, int]:
    """Returns the number of parameters by partition (`jaxft.training.partition.count`).

    A quantised kernel counts as the kernel that it stands for.
    """
    shapes = {path: x for path, x in model.shapes.items() if not quantised.is_part(path)}
    labels = model.labels | dict.fromkeys(model.quantised, "frozen")
    return count(shapes | model.quantised, labels)


def computed(model: Model, **otherwise: str) -> Model:
    """The same model, computed otherwise (`Backbone.computed`); without kept layers."""
    backbone = model.backbone.computed(**otherwise)
    module = Injected(backbone.module, model.applied.insertions, model.applied.shared)
    forward = partial(backbones.forward, backbone, module)
    return replace(model, backbone=backbone, module=module, forward=forward)


def param_shapes(model: Model, mesh: Mesh) -> tuple[Params, Params]:
    """Returns `(trained, frozen)` of a step as ShapeDtypeStructs with shardings."""
    shardings = param_shardings(model.axes, model.shapes, mesh)
    needed = of_steps(model, model.shapes)
    return split({p: sharded_shape(x, shardings[p]) for p, x in needed.items()}, model.labels)


def of_steps(model: Model, params: Params) -> Params:
    """Returns the parameters that a step takes: all but those of layers whose outputs are kept."""
    unused = model.kept.unused if model.kept else {}
    return {path: x for path, x in params.items() if path not in unused}


def state_shapes(
    model: Model, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[State, Params]:
    """Returns `(state, frozen)` as ShapeDtypeStructs with shardings."""
    trained, frozen = param_shapes(model, mesh)

    def like_its_parameter(key_path: Any, x: Any) -> jax.ShapeDtypeStruct:
        parameter = trained.get(parameter_of(key_path, trained) or "")
        # Counters have a parameter's path as well, but not its shape.
        if parameter is None or parameter.shape != x.shape:
            return sharded_shape(x, replicated(mesh))
        return sharded_shape(x, parameter.sharding)

    opt_state = jax.tree_util.tree_map_with_path(
        like_its_parameter, jax.eval_shape(optimizer.init, trained)
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    return State(step, trained, opt_state), frozen


def sharded_shape(x: Any, sharding: jax.sharding.Sharding | None) -> jax.ShapeDtypeStruct:
    """The shape of `x` with this sharding; None is one device of the present backend."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, np.ndarray],
    seed: int,
    mesh: Mesh,
) -> tuple[State, Params]:
    """Returns `(state, frozen)` on the mesh: the checkpoint's weights, the rest from the seed."""
    frozen = init_params(model, weights, seed, mesh, split(model.shapes, model.labels)[1])
    return init_trained(model, optimizer, weights, seed, mesh), frozen


def init_trained(
    model: Model,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, np.ndarray],
    seed: int,
    mesh: Mesh,
) -> State:
    """Returns only the state of `init_state`, for another seed with the same frozen leaves."""
    shapes, _ = state_shapes(model, optimizer, mesh)
    trained = init_params(model, weights, seed, mesh, shapes.trained)
    init_opt_state = jax.jit(optimizer.init, out_shardings=shardings_of(shapes.opt_state))
    return State(put(np.int32(0), replicated(mesh)), trained, init_opt_state(trained))


def init_params(
    model: Model,
    weights: Mapping[str, np.ndarray],
    seed: int,
    mesh: Mesh,
    paths: Iterable[str],
) -> Params:
    """Returns the parameters of these paths, from the checkpoint or else from the seed.

    A method may compute its own from the checkpoint's (`jaxft.peft.method.Applied.init`).
    """
    shardings = param_shardings(model.axes, model.shapes, mesh)
    paths = set(paths)
    values = stored(model, weights, paths)
    computed = quantised.Rounded(weights, model.backbone.frozen_dtype, model.quantised)
    for path in sorted(paths - set(values)):
        value = model.applied.init(path, computed)
        if value is not None:
            values[path] = np.asarray(value, model.shapes[path].dtype)
    found = {path: put(value, shardings[path]) for path, value in values.items()}
    init_key, _ = run_keys(seed)
    return found | init_fresh(model, paths - set(found), init_key, mesh)


def saved_shapes(model: Model, weights: Collection[str]) -> Params:
    """Returns path -> ShapeDtypeStruct of what a run saves beside its base model.

    That is what is trained, and what the checkpoint lacks; codes and scales are made from it again.

    Args:
      weights: the paths that the checkpoint has.
    """
    shapes = {path: x for path, x in model.shapes.items() if not quantised.is_part(path)}
    lacking = {path: x for path, x in shapes.items() if path not in weights}
    return lacking | split(model.shapes, model.labels)[0]


def stored(
    model: Model, weights: Mapping[str, np.ndarray], paths: Iterable[str]
) -> dict[str, np.ndarray]:
    """Returns those of these parameters that a checkpoint has, as the model stores them."""
    paths = set(paths)
    values = {
        path: np.asarray(weights[path], model.shapes[path].dtype)
        for path in paths
        if path in weights
    }
    for path in model.quantised:
        parts = quantised.parts_of(path)
        if path in weights and not paths.isdisjoint(parts):
            pair = quantised.quantise(model.backbone.frozen_dtype, weights[path])
            values |= dict(zip(parts, pair, strict=True))
    return values


def shardings_of(shapes: Any) -> Any:
    """The shardings of a tree of ShapeDtypeStructs."""
    return jax.tree.map(lambda x: x.sharding, shapes)


def init_fresh(model: Model, paths: set[str], key: jax.Array, mesh: Mesh) -> Params:
    """Returns newly initialised parameters of these paths.

    jit drops what is not returned, so no random backbone is computed only to be overwritten.
    """
    if not paths:
        return {}

    def chosen(key: jax.Array) -> Params:
        everything = backbones.init(model.backbone, model.module, key)
        return {path: everything[path].astype(model.shapes[path].dtype) for path in paths}

    shardings = param_shardings(model.axes, {path: model.shapes[path] for path in paths}, mesh)
    return jax.jit(chosen, out_shardings=shardings)(key)


def run_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of a run: `(initialisation, dropout)`."""
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    return init_key, dropout_key
