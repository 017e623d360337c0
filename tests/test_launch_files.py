"""scripts/slurm and scripts/gke: what schedulers and JAX read in them holds together."""

import math
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxft.distributed.watchdog import EXIT_LOST
from jaxft.training.mesh import axis_sizes

ROOT = Path(__file__).parents[1]
SBATCH = ROOT / "scripts" / "slurm" / "train.sbatch"
GKE = {name: ROOT / "scripts" / "gke" / f"{name}.yaml" for name in ("gpu", "tpu")}
Document = dict[str, Any]


def test_the_sbatch_script_is_sound_bash() -> None:
    done = subprocess.run(["bash", "-n", str(SBATCH)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_slurm_starts_a_process_for_each_gpu() -> None:
    """JAX's detection gives each process the one device of its number on the node."""
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", SBATCH.read_text(), re.M))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"].startswith("TERM@")  # to the tasks; B: would be to the script alone


def test_slurm_queues_what_was_stopped_again_and_nothing_else() -> None:
    text = SBATCH.read_text()
    requeued = re.search(r"^ *([\d |]+)\) scontrol requeue", text, re.M)
    assert requeued is not None
    codes = {int(code) for code in requeued[1].split("|")}
    # srun returns the highest code: that of a task that was killed or crashed hides the others' 75.
    crashes = {128 + number for number in (signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV)}
    assert codes == {128 + signal.SIGTERM, EXIT_LOST, *crashes}
    assert "#SBATCH --requeue" in text


def documents(name: str) -> dict[str, Document]:
    """The resources of a file, by kind; each kind is there once."""
    found = [part for part in yaml.safe_load_all(GKE[name].read_text()) if part]
    assert len({part["kind"] for part in found}) == len(found)
    return {part["kind"]: part for part in found}


@pytest.mark.parametrize("name", GKE)
def test_the_pods_find_each_other(name: str) -> None:
    found = documents(name)
    service, job = found["Service"], found["Job"]
    pod = job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    # The pod's number is its process's, and all must be there at once.
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] > 1
    assert job["metadata"]["labels"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy takes no other


def test_a_pod_may_ask_what_jaxs_detection_asks() -> None:
    """List pods and services, read the job (jax/_src/clusters/k8s_cluster.py)."""
    found = documents("gpu")
    account = found["ServiceAccount"]["metadata"]["name"]
    assert found["Job"]["spec"]["template"]["spec"]["serviceAccountName"] == account
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    assert [subject["name"] for subject in found["RoleBinding"]["subjects"]] == [account]
    allowed = {
        (resource, verb)
        for rule in found["Role"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {("pods", "list"), ("services", "list"), ("jobs", "get")} <= allowed


@pytest.mark.parametrize("name", GKE)
def test_the_command_suits_the_devices(name: str) -> None:
    job = documents(name)["Job"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    limits = container["resources"]["limits"]
    each = limits["nvidia.com/gpu" if name == "gpu" else "google.com/tpu"]
    if name == "tpu":
        sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
        assert math.prod(map(int, sides)) == each * job["completions"]
    given = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    assert container["command"][:3] == ["python", "-m", "jaxft.train"]
    assert (ROOT / given["config"]).is_file()
    axis_sizes(each * job["completions"], fsdp=int(given["config.mesh.fsdp"]))
    # What all pods write to is what is mounted, and the image is the one the Dockerfile makes.
    assert any(given["workdir"].startswith(m["mountPath"]) for m in container["volumeMounts"])
    mounted = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == mounted
    assert container["image"].endswith(f"jaxft:{name}")
