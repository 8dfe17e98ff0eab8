"""What a look at a cluster finds, and that what cannot be asked is never right."""

import pytest

from bridge.config import Config, Kubernetes
from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes import checkup
from bridge.runtimes.kubernetes.api import Api

READY = [{"type": "Ready", "status": "True"}]


def node(name="k1", conditions=READY, **spec):
    return {"metadata": {"name": name}, "spec": spec, "status": {"conditions": conditions}}


def seen(answers, settings, *nodes, slurm=("n1",)):
    answers.add(200, {"items": list(nodes)})
    return list(checkup._nodes(Api(answers.settings()), settings, slurm))


@pytest.mark.parametrize(
    ("minor", "words"),
    [("36", None), ("34+", None), ("33", "older than 1.34 to 1.36"), ("37", "newer than")],
)
def test_the_newest_three_minors_are_right(answers, minor, words):
    answers.add(200, {"gitVersion": f"v1.{minor}.0", "minor": minor})
    _, answer = checkup._version(Api(answers.settings()))
    assert answer.is_right == (words is None)
    assert not words or (words in answer.text and answer.remedy)


def test_a_ready_node_is_right_under_its_name_in_the_table(answers):
    (answer,) = seen(answers, Kubernetes(node_names=("n[1-2]=k1",)), node())
    assert answer.is_right
    assert answer.text == "Slurm's node n1 is Kubernetes' node k1: Ready"


def test_a_node_that_is_not_there_is_wrong_and_those_that_are_get_named(answers):
    (answer,) = seen(answers, Kubernetes(), node("k1"), node("k0"))
    assert not answer.is_right
    assert "not there (there are: k0, k1)" in answer.text
    assert "kubernetes.node_names" in answer.remedy


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (node("n1", [{"type": "Ready", "status": "Unknown", "message": "gone"}]), "Ready (gone)"),
        (node("n1", []), "never said anything"),
        (node("n1", taints=[{"key": checkup.CORDON, "effect": "NoSchedule"}]), "cordoned"),
        (node("n1", taints=[{"key": "gpu", "value": "a", "effect": "NoSchedule"}]), "gpu=a:NoSch"),
        (node("n1", taints=[{"key": "old", "effect": "NoExecute"}]), "old=:NoExecute"),
    ],
)
def test_a_node_that_takes_no_sandboxes_is_wrong(answers, bad, words):
    (answer,) = seen(answers, Kubernetes(), bad)
    assert not answer.is_right
    assert words in answer.text
    assert answer.remedy


@pytest.mark.parametrize("toleration", ["gpu=a:NoSchedule", "gpu", "gpu=a", "gpu:NoSchedule"])
def test_a_taint_that_the_site_tolerates_is_right(answers, toleration):
    tainted = node("n1", taints=[{"key": "gpu", "value": "a", "effect": "NoSchedule"}])
    (answer,) = seen(answers, Kubernetes(tolerations=(toleration,)), tainted)
    assert answer.is_right


def test_a_taint_that_only_prefers_other_nodes_is_right(answers):
    tainted = node("n1", taints=[{"key": "gpu", "effect": "PreferNoSchedule"}])
    (answer,) = seen(answers, Kubernetes(), tainted)
    assert answer.is_right


def test_what_the_configuration_names_must_be_there(answers):
    settings = Kubernetes(
        priority_class="batch", gpu_runtime_class="nvidia", image_pull_secrets=("hub",)
    )
    config = Config(kubernetes=settings)
    for status in (200, 404, 404):
        answers.add(status, {"code": status, "reason": "NotFound", "message": ""})
    found = list(checkup._references(Api(answers.settings()), config))
    assert [(one.is_right, one.text) for one in found] == [
        (True, "RuntimeClass nvidia is there"),
        (False, "PriorityClass batch is not there"),
        (False, "Secret sbridge/hub is not there"),
    ]


def test_what_cannot_be_asked_is_wrong(answers):
    def nodes():
        raise TemporaryError("Slurm could not be asked", hint="Name the nodes with --nodes.")

    api = Api(answers.settings())
    found = list(
        checkup.examine(api, lambda: None, Config(), nodes)
    )  # the server hangs up each time
    right = [answer.text for answer in found if answer.is_right]
    assert len(right) == 1  # how the agents' rights were going to be asked for
    assert "SubjectAccessReview" in right[0]
    assert len(found) == 5
    assert any("Slurm could not be asked" in answer.text for answer in found)
    assert any("--nodes" in answer.remedy for answer in found)
