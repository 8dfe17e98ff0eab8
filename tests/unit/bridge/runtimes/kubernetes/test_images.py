"""The pods that fetch images, and what nodes say they have; real pulls in integration."""

import threading

from bridge.config import Kubernetes
from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes import images
from bridge.runtimes.kubernetes.api import Api
from bridge.runtimes.kubernetes.images import Image

MIB = 1 << 20


def node(name, *found, ready="True", taints=()):
    return {
        "metadata": {"name": name},
        "spec": {"taints": list(taints)},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "images": [{"names": names, "sizeBytes": size} for names, size in found],
        },
    }


def test_the_pod_fetches_anew_needs_nothing_and_is_pinned():
    settings = Kubernetes(image_pull_secrets=("hub",), tolerations=("gpu",), priority_class="")
    made = images.pod(settings, "r.io/x:1", "K1_odd")
    spec = made["spec"]
    (container,) = spec["containers"]
    assert container["imagePullPolicy"] == "Always"
    assert container["image"] == "r.io/x:1"
    assert spec["imagePullSecrets"] == [{"name": "hub"}]
    assert {"key": "gpu", "operator": "Exists"} in spec["tolerations"]
    assert "resources" not in container
    assert "priorityClassName" not in spec
    assert "'K1_odd'" in str(spec["affinity"])
    assert made["metadata"]["name"].startswith("image-pull-k1-odd-")


def test_two_pods_never_share_a_name():
    made = {images.pod(Kubernetes(), "x", "n" * 80)["metadata"]["name"] for _ in range(50)}
    assert len(made) == 50
    assert max(map(len, made)) <= 63


def test_images_are_listed_by_name_with_the_nodes_that_have_them():
    nodes = [
        node("k2", (["r.io/b@sha256:1", "r.io/b:2"], 10 * MIB), (["r.io/a@sha256:2"], 100)),
        node("k1", (["r.io/b@sha256:1", "r.io/b:2"], 10 * MIB), ([], 5)),
    ]
    found = images.listed(nodes)
    assert [image.title for image in found] == ["r.io/a@sha256:2", "r.io/b:2"]
    assert found[1] == Image(("r.io/b@sha256:1", "r.io/b:2"), 10 * MIB, ("k1", "k2"))
    assert [image.size for image in found] == ["0.0 MiB", "10 MiB"]
    assert [image.title for image in images.listed(nodes, "*/b:*")] == ["r.io/b:2"]


def test_a_node_that_reports_as_many_as_it_may_can_have_more():
    full = [([f"i{number}"], 1) for number in range(50)]
    assert images.incomplete([node("k2", *full), node("k1", *full[1:])]) == ["k2"]


def test_a_node_that_runs_no_pods_fails_at_once_and_others_go_on(answers, monkeypatch):
    monkeypatch.setattr(images._Puller, "_pull_one", lambda *_: images.Pull("1s", MIB))
    told = []
    nodes = [
        node("k1", ready="Unknown"),
        node("k2", taints=[{"key": "gpu", "effect": "NoSchedule"}]),
        node("k3", taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
    ]
    api = Api(answers.settings())
    came = images.pull(api, Kubernetes(), ["a", "b"], nodes, 2, 1.0, threading.Event(), told.append)
    assert not came
    outcome = {(news.node, news.image): news.trouble.partition(" ")[0] for news in told}
    assert outcome == {
        ("k1", "a"): "not", ("k1", "b"): "not", ("k2", "a"): "has", ("k2", "b"): "has",
        ("k3", "a"): "", ("k3", "b"): "",
    }  # fmt: skip


def test_no_more_nodes_at_a_time_than_allowed(answers, monkeypatch):
    lock, running, most = threading.Lock(), [], []
    together = threading.Barrier(2, timeout=10)

    def pull_one(_self, _image, name):
        with lock:
            running.append(name)
            most.append(len(running))
        together.wait()
        with lock:
            running.remove(name)
        return images.Pull()

    monkeypatch.setattr(images._Puller, "_pull_one", pull_one)
    nodes = [node(f"k{number}") for number in range(6)]
    api = Api(answers.settings())
    event = threading.Event()
    assert images.pull(api, Kubernetes(), ["a"], nodes, 2, 1.0, event, lambda _: None)
    assert max(most) == 2


def test_what_fails_on_one_image_is_told_and_the_next_is_tried(answers, monkeypatch):
    def pull_one(_self, image, _name):
        if image == "bad":
            raise TemporaryError("no registry")
        return images.Pull()

    monkeypatch.setattr(images._Puller, "_pull_one", pull_one)
    told = []
    api = Api(answers.settings())
    came = images.pull(
        api, Kubernetes(), ["bad", "good"], [node("k1")], 1, 1.0, threading.Event(), told.append
    )
    assert not came
    assert [(news.image, news.trouble) for news in told] == [("bad", "no registry"), ("good", "")]


def test_no_nodes_is_no_success(answers):
    api = Api(answers.settings())
    event = threading.Event()
    assert not images.pull(api, Kubernetes(), ["a"], [], 1, 1.0, event, lambda _: None)
