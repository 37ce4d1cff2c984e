"""launch/k8s_rayjob.yaml: its pods by Kubernetes' schema, its command by our own reading."""

import shlex

import kubernetes_validate
import yaml
from support import ROOT

from distopt.cli.run import run as distopt_run

FILE = ROOT / "launch" / "k8s_rayjob.yaml"


def test_the_pods_of_the_ray_job_are_pods():
    job = yaml.safe_load(FILE.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    version = kubernetes_validate.latest_version()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": group["template"]}
        kubernetes_validate.validate(pods, version, strict=True)


def test_the_ray_job_fits_into_its_cluster():
    spec = yaml.safe_load(FILE.read_text())["spec"]
    command = shlex.split(spec["entrypoint"])
    assert command[:2] == ["distopt", "run"]
    values = distopt_run.make_context("run", command[2:]).params
    assert values["backend"] == "ray"
    assert values["script"] == "examples/train.py"
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert values["replicas"] == group["replicas"] * int(container["resources"]["limits"]["cpu"])
