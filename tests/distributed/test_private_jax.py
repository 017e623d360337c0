"""JAX's private modules: whatever jaxft uses of them is there, and takes the same arguments.

A failure names the feature that does not work with the installed JAX, and where to repair it.
"""

import inspect
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxft.distributed import private_jax
from jaxft.errors import InputError

ROOT = Path(__file__).parents[2]
REPAIR = "repair it in jaxft/distributed/private_jax.py"


def broken(feature: str, detail: object) -> str:
    return f"{feature} is broken with jax {jax.__version__}: {detail}; {REPAIR}"


def test_cluster_detection_finds_jaxs_cluster_types() -> None:
    try:
        types = private_jax.cluster_types()
        # A type that is asked only on request must be known as such; the others are asked.
        wanted = {"SlurmCluster", "OmpiCluster", "K8sCluster", "GceTpuCluster", "GkeTpuCluster"}
        found = {cluster.__name__ for cluster in types if not cluster.opt_in_only_method}
        for cluster in types:
            inspect.signature(cluster.is_env_present).bind()
            inspect.signature(cluster.get_process_count).bind()
    except (InputError, AttributeError, TypeError) as err:
        pytest.fail(broken("cluster detection", err))
    assert found >= wanted, broken("cluster detection", f"{wanted - found} not among {found}")


def test_cluster_detection_completes_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "host7",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "JAX_COORDINATOR_PORT": "1234",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        found = private_jax.detect_parameters(None, None, None, None, 5)
        kept = private_jax.detect_parameters("here:1", 2, 1, [0], 5)
    except (InputError, AttributeError, TypeError) as err:
        pytest.fail(broken("cluster detection", err))
    assert found == ("host7:1234", 4, 3, [1]), broken("cluster detection", found)
    assert kept == ("here:1", 2, 1, [0]), broken("cluster detection", kept)


EXCHANGE = """
import sys
import jax
from jaxft.distributed import private_jax

jax.distributed.initialize(sys.argv[1], 1, 0, cluster_detection_method="deactivate")
client = private_jax.coordination_client()
client.key_value_set("a/b/0", '["text"]')
client.wait_at_barrier("a/b", 1000)
print(client.key_value_dir_get("a/b"))
jax.distributed.shutdown()
"""


def test_the_exchange_between_processes_stores_text_and_waits() -> None:
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
    done = subprocess.run(
        [sys.executable, "-c", EXCHANGE, address], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, broken("exchange between processes", done.stderr)
    assert done.stdout == "[('a/b/0', '[\"text\"]')]\n", broken(
        "exchange between processes", done.stdout
    )


@pytest.mark.parametrize(
    ("module", "feature", "call"),
    [
        ("jax._src.clusters", "cluster detection", private_jax.cluster_types),
        (
            "jax._src.clusters",
            "cluster detection",
            lambda: private_jax.detect_parameters(None, None, None, None, 5),
        ),
        ("jax._src.distributed", "exchange between processes", private_jax.coordination_client),
    ],
)
def test_a_jax_without_the_module_is_one_line_that_names_the_feature(
    module: str, feature: str, call: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Python then refuses to import it
    with pytest.raises(InputError, match=rf"^{feature} does not work with jax [^\n]+$") as caught:
        call()
    assert "constraints.txt" in str(caught.value)


def test_no_other_file_uses_private_jax() -> None:
    private = re.compile(r"^\s*(from|import) jax(lib)?\._", re.M)
    files = (ROOT / "jaxft").rglob("*.py")
    found = {str(path.relative_to(ROOT)) for path in files if private.search(path.read_text())}
    assert found == {"jaxft/distributed/private_jax.py"}
