"""Insertions replace the calls at their paths and nothing else, under jit and remat too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxft.models.backbone import Params, flat, nested
from jaxft.peft.inject import Call, Injected, Insertion


class Block(nn.Module):
    """Two Dense layers, and a method that is not `__call__`."""

    def setup(self) -> None:
        self.first = nn.Dense(4)
        self.second = nn.Dense(4)

    def __call__(self, x_BxD: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.double(self.second(self.first(x_BxD)), deterministic=deterministic)

    def double(self, x_BxD: jax.Array, deterministic: bool) -> jax.Array:
        return 2.0 * x_BxD if deterministic else x_BxD


class Net(nn.Module):
    """Two blocks, rematerialised or not, as in an encoder."""

    remat: bool = False

    def setup(self) -> None:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        self.lower = block()
        self.upper = block()

    def __call__(self, x_BxD: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.upper(self.lower(x_BxD, deterministic), deterministic)


X_BxD = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)


def scale_by_parameter(call: Call) -> jax.Array:
    """Inserts a child `extra` with one parameter, a factor that starts at 1."""
    factor = Factor(parent=call.module.scope.push("extra"))
    return factor(call.next_fun(*call.args))


class Factor(nn.Module):
    @nn.compact
    def __call__(self, x_BxD: jax.Array) -> jax.Array:
        return x_BxD * self.param("factor", nn.initializers.ones, ())


def injected(*paths: str, remat: bool = False) -> Injected:
    return Injected(Net(remat), (Insertion(frozenset(paths), scale_by_parameter),))


def init(module: nn.Module) -> Params:
    return flat(module.init(jax.random.key(0), X_BxD)["params"])


def test_without_insertions_the_backbone_is_as_it_was() -> None:
    plain, module = init(Net()), Injected(Net(), ())
    found = init(module)
    assert found.keys() == plain.keys()
    for path, x in plain.items():
        np.testing.assert_array_equal(found[path], x)
    expected = Net().apply({"params": nested(plain)}, X_BxD)
    np.testing.assert_array_equal(module.apply({"params": nested(plain)}, X_BxD), expected)


@pytest.mark.parametrize("remat", [False, True])
def test_inserted_parameters_stand_below_their_module_and_move_no_other(remat: bool) -> None:
    extras = {"lower/first/extra/factor", "upper/extra/factor"}
    assert init(injected("lower/first", "upper", remat=remat)).keys() == init(Net()).keys() | extras


@pytest.mark.parametrize("remat", [False, True])
def test_only_the_call_at_the_path_is_replaced(remat: bool) -> None:
    module = injected("lower/second", remat=remat)
    params = init(module)
    plain = {path: x for path, x in params.items() if "extra" not in path}

    # A factor 3 on a Dense layer's output is a factor 3 on its kernel and bias.
    expected = {path: x * 3 if path.startswith("lower/second/") else x for path, x in plain.items()}
    params["lower/second/extra/factor"] = jnp.float32(3)
    np.testing.assert_allclose(
        module.apply({"params": nested(params)}, X_BxD),
        Net().apply({"params": nested(expected)}, X_BxD),
        rtol=1e-6,
    )


def test_the_methods_of_a_replaced_module_stay_what_they_are() -> None:
    module = injected("upper")
    params = init(module)
    params["upper/extra/factor"] = jnp.float32(3)
    plain = {path: x for path, x in params.items() if "extra" not in path}
    expected = 3 * Net().apply({"params": nested(plain)}, X_BxD)  # 9 times, if `double` counted too
    np.testing.assert_allclose(module.apply({"params": nested(params)}, X_BxD), expected, rtol=1e-6)


@pytest.mark.parametrize("deterministic", [True, False])
def test_an_insertion_is_told_the_arguments_and_whether_to_drop(deterministic: bool) -> None:
    seen: list[Call] = []

    def look(call: Call) -> jax.Array:
        seen.append(call)
        return call.next_fun(*call.args)

    module = Injected(Net(), (Insertion(frozenset({"lower/first"}), look),))
    module.apply({"params": nested(init(Net()))}, X_BxD, deterministic=deterministic)
    (call,) = seen
    assert call.deterministic is deterministic
    assert call.module.features == 4
    np.testing.assert_array_equal(call.args[0], X_BxD)


@pytest.mark.parametrize("remat", [False, True])
def test_jit_keeps_the_insertion_even_after_it_traced_the_plain_backbone(remat: bool) -> None:
    net = Net(remat)
    module = Injected(net, (Insertion(frozenset({"lower/first"}), scale_by_parameter),))
    params = init(module)
    params["lower/first/extra/factor"] = jnp.float32(3)
    plain = {path: x for path, x in params.items() if "extra" not in path}
    traces = []

    @jax.jit
    def apply_plain(params: Params) -> jax.Array:
        return net.apply({"params": nested(params)}, X_BxD)

    @jax.jit
    def apply(params: Params) -> jax.Array:
        traces.append(1)
        return module.apply({"params": nested(params)}, X_BxD)

    before = apply_plain(plain)
    first, second = apply(params), apply(params)
    assert len(traces) == 1
    np.testing.assert_array_equal(first, second)
    assert not jnp.allclose(first, before)
    np.testing.assert_allclose(first, module.apply({"params": nested(params)}, X_BxD), rtol=1e-6)
    # And nothing stays behind: the plain backbone, called again, is plain.
    np.testing.assert_allclose(net.apply({"params": nested(plain)}, X_BxD), before, rtol=1e-6)
