"""All uses of JAX's private modules (`jax._src`) in jaxft. Each says which public API is missing.

    cluster_types()                   # JAX's classes: SlurmCluster, K8sCluster, ...
    detect_parameters("host:1234", 1, 0, None, timeout=300)
    if processes.count() > 1:
        coordination_client().key_value_set("key", "value")

`tests/distributed/test_private_jax.py` uses each of them as jaxft does, so that a new JAX that
changes one of them fails there, with the name of the feature that needs it. The imports are inside
the functions: a JAX without one of these modules breaks that feature and nothing else.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import jax

from jaxft.errors import InputError

Parameters = tuple[str | None, int | None, int | None, Sequence[int] | None]


class ClusterType(Protocol):
    """The part of JAX's `ClusterEnv` that jaxft uses; a class, never an object."""

    __name__: str
    opt_in_only_method: bool

    def is_env_present(self) -> bool:
        """Whether this process runs in a cluster of this type."""

    def get_process_count(self) -> int:
        """The number of processes that the cluster started."""


class CoordinationClient(Protocol):
    """The part of the coordination service's client that jaxft uses."""

    def key_value_set(self, key: str, value: str) -> None:
        """Stores a text for all processes."""

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        """Waits until all processes wait here."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """The keys that begin with this one and a slash, and their texts."""


def cluster_types() -> list[ClusterType]:
    """JAX's classes for the clusters it knows, in the order in which it tries them.

    Missing in public: `jax.distributed.initialize` detects the cluster and joins it in one call. We
    must know before it whether there are several processes, and which, to check the coordinator's
    port and to start the watchdog.
    """
    try:
        from jax._src.clusters import ClusterEnv

        return cast(list[ClusterType], ClusterEnv._cluster_types)
    except (ImportError, AttributeError) as err:
        raise missing("cluster detection", err) from err


def detect_parameters(
    address: str | None,
    processes: int | None,
    process: int | None,
    devices: Sequence[int] | None,
    timeout: int,
) -> Parameters:
    """Returns `(address, processes, process, devices)` with each None replaced by JAX's detection.

    Missing in public: as for `cluster_types`.
    """
    try:
        from jax._src.clusters import ClusterEnv

        detect = ClusterEnv.auto_detect_unset_distributed_params
    except (ImportError, AttributeError) as err:
        raise missing("cluster detection", err) from err
    return detect(address, processes, process, devices, None, timeout)


def coordination_client() -> CoordinationClient:
    """The client of the coordination service that `jax.distributed.initialize` has started.

    Missing in public: a way to exchange text between processes before the devices are found.
    `multihost_utils` exchanges arrays, by programs that run on the devices.
    """
    try:
        from jax._src.distributed import global_state

        client: Any = global_state.client
    except (ImportError, AttributeError) as err:
        raise missing("exchange between processes", err) from err
    assert client is not None, "jax.distributed.initialize comes first"
    return client


def missing(feature: str, error: Exception) -> InputError:
    """The line for a JAX whose private modules have changed."""
    return InputError(
        f"{feature} does not work with jax {jax.__version__} ({error}); install the version in "
        "constraints.txt; --distributed=off runs one process alone"
    )
