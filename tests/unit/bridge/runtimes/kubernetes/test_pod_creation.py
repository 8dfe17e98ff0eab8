"""What is asked of the API for a user's first pod, and for one whose namespace has gone."""

import json

import pytest

from bridge.config import Kubernetes
from bridge.job_spool import RunId
from bridge.runtimes import manifest
from bridge.runtimes.kubernetes.api import Api, RefusedError
from bridge.runtimes.kubernetes.pod_creation import PodCreation
from bridge.runtimes.sandbox import SandboxSpec

SPEC = SandboxSpec(
    "slurm-job-7", RunId(7, 0), "n1", "alpine", 1001, 1001, (), "alice", "", "", 1, 0, (), False
)
NAMESPACES = "/api/v1/namespaces"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/user-alice/networkpolicies"
PODS = "/api/v1/namespaces/user-alice/pods"
EXISTS = 409, {"reason": "AlreadyExists", "message": "it is there"}
NO_NAMESPACE = 404, {"reason": "NotFound", "message": 'namespaces "user-alice" not found'}


def pod_of(settings):
    return manifest.pod(SPEC, manifest.Site.of(settings, "n1"))


POD = pod_of(Kubernetes(namespace="jobs", user_namespaces=True))


def paths(answers):
    return [asked["path"] for asked in answers.asked]


def test_a_pod_of_the_sites_own_namespace_asks_for_nothing_else(answers):
    answers.add(201, {})
    PodCreation(Api(answers.settings()), "jobs").create(pod_of(Kubernetes(namespace="jobs")))
    assert paths(answers) == ["/api/v1/namespaces/jobs/pods"]


def test_the_first_pod_of_a_user_makes_his_namespace_and_the_second_does_not(answers):
    creation = PodCreation(Api(answers.settings()), "jobs")
    for _ in range(4):
        answers.add(201, {})
    creation.create(POD)
    creation.create(POD)
    assert paths(answers) == [NAMESPACES, POLICIES, PODS, PODS]
    made = json.loads(answers.asked[0]["body"])["metadata"]
    assert made["name"] == "user-alice"
    assert made["labels"]["sbridge/site"] == "jobs"
    assert (made["labels"]["sbridge/user"], made["labels"]["sbridge/uid"]) == ("alice", "1001")


def test_a_namespace_that_another_agent_has_made_gets_what_it_may_lack(answers):
    answers.add(*EXISTS)
    answers.add(201, {})
    answers.add(201, {})
    PodCreation(Api(answers.settings()), "jobs").create(POD)
    assert paths(answers) == [NAMESPACES, POLICIES, PODS]


def test_a_namespace_that_somebody_has_removed_is_made_again(answers):
    creation = PodCreation(Api(answers.settings()), "jobs")
    for _ in range(3):
        answers.add(201, {})
    creation.create(POD)
    answers.add(*NO_NAMESPACE)
    for _ in range(3):
        answers.add(201, {})
    creation.create(POD)
    assert paths(answers)[3:] == [PODS, NAMESPACES, POLICIES, PODS]


def test_a_no_to_the_namespace_is_a_no_to_the_pod(answers):
    answers.add(403, {"reason": "Forbidden", "message": "cannot create namespaces"})
    with pytest.raises(RefusedError, match="cannot create namespaces"):
        PodCreation(Api(answers.settings()), "jobs").create(POD)
    assert paths(answers) == [NAMESPACES]
