"""What the agent knows of its pods, through every kind of interruption."""

import dataclasses
import time

import structlog

from bridge.config import Kubernetes
from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes import pod_watch
from bridge.runtimes.kubernetes.api import Api
from bridge.runtimes.kubernetes.pod_scope import PodScope
from bridge.runtimes.kubernetes.user_namespace import SITE


def pod(name: str, version: str, **metadata: object) -> dict[str, object]:
    return {
        "metadata": {
            "name": name,
            "namespace": "jobs",
            "uid": f"uid-{name}",
            "resourceVersion": version,
            **metadata,
        },
        "status": {},
    }


def listed(version: str, *pods: dict[str, object]) -> dict[str, object]:
    return {"metadata": {"resourceVersion": version}, "items": list(pods)}


def event(kind: str, what: dict[str, object]) -> dict[str, object]:
    return {"type": kind, "object": what}


def watching(answers, monkeypatch):
    monkeypatch.setattr(pod_watch, "_FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(pod_watch, "_LONGEST_RETRY_S", 0.05)
    ended: list[tuple[str, str]] = []
    api = Api(answers.settings())
    settings = dataclasses.replace(answers.settings(), namespace="jobs", user_namespaces=True)
    watch = pod_watch.PodWatch(
        api,
        PodScope(api, settings),
        "app=slurm-job",
        structlog.get_logger(),
        lambda *told: ended.append(told),
    )
    watch.start()
    return watch, ended


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def names(watch) -> set[str] | None:
    try:
        return watch.names()
    except TemporaryError:
        return None


def test_nothing_is_known_before_the_first_list(answers, monkeypatch):
    watch, _ = watching(answers, monkeypatch)

    until(lambda: "does not answer" in watch.away)

    assert names(watch) is None


def test_a_list_and_then_the_changes_after_it(answers, monkeypatch):
    answers.add(200, listed("5", pod("a", "3"), pod("b", "4")))
    answers.add(200, event("ADDED", pod("c", "6")), event("DELETED", pod("a", "7")))
    answers.add(200, event("BOOKMARK", pod("", "9")))
    watch, ended = watching(answers, monkeypatch)

    until(lambda: len(answers.asked) > 3)

    assert watch.pods("a") == []
    assert watch.pods("c")
    assert ended == [("a", "its pod was deleted")]
    assert ["resourceVersion=5" in asked["path"] for asked in answers.asked[1:2]] == [True]
    assert "resourceVersion=7" in answers.asked[2]["path"]
    assert "resourceVersion=9" in answers.asked[3]["path"]


def test_a_version_that_expired_is_listed_again_and_the_lost_are_told(answers, monkeypatch):
    answers.add(200, listed("5", pod("a", "3"), pod("b", "4")))
    answers.add(200, event("ERROR", {"code": 410, "message": "too old"}))
    answers.add(200, listed("99", pod("b", "4")))
    watch, ended = watching(answers, monkeypatch)

    until(lambda: len(answers.asked) > 3)

    assert ended == [("a", "its pod was deleted while the Kubernetes API was away")]
    assert watch.pods("b")
    assert "resourceVersion=99" in answers.asked[3]["path"]


def test_an_end_that_only_a_list_shows_is_told(answers, monkeypatch):
    evicted = {**pod("a", "7"), "status": {"reason": "Evicted", "message": "disk pressure"}}
    answers.add(200, listed("5", pod("a", "3")))
    answers.add(200, event("ERROR", {"code": 410, "message": "too old"}))
    answers.add(200, listed("99", evicted))
    _, ended = watching(answers, monkeypatch)

    until(lambda: ended)

    assert ended == [("a", "Evicted: disk pressure")]


def test_what_was_known_stays_while_the_api_is_away_but_nothing_counts_as_gone(
    answers, monkeypatch
):
    answers.add(200, listed("5", pod("a", "3")))
    watch, ended = watching(answers, monkeypatch)

    until(lambda: watch.away and watch.pods("a"))

    assert names(watch) is None
    assert ended == []
    answers.add(200, event("BOOKMARK", pod("", "6")))
    until(lambda: any("resourceVersion=6" in asked["path"] for asked in answers.asked))
    assert watch.pods("a")


def test_a_watch_that_ends_at_once_again_and_again_is_opened_ever_less_often(answers, monkeypatch):
    answers.add(200, listed("5", pod("a", "3")))
    for _ in range(12):
        answers.add(200)
    began = time.monotonic()
    watch, _ = watching(answers, monkeypatch)  # pauses: 0.01, 0.02, 0.04, then 0.05 s each

    until(lambda: len(answers.asked) > 12)

    assert time.monotonic() - began > 0.4
    assert watch.pods("a")
    assert not watch.away


def test_a_waiter_wakes_when_its_pod_changes(answers, monkeypatch):
    answers.add(200, listed("5", pod("a", "3")))
    answers.add(200, event("MODIFIED", pod("a", "6", deletionTimestamp="now")))
    watch, ended = watching(answers, monkeypatch)

    until(lambda: [one["metadata"]["resourceVersion"] for one in watch.pods("a")] == ["6"])
    (seen,) = watch.pods("a")

    assert watch.wait(seen, 0.01) is seen
    assert watch.wait(pod("a", "3"), 1.0) is seen
    assert ended == [("a", "its pod was deleted")]


def test_a_list_that_is_refused_says_why(answers, monkeypatch):
    answers.add(403, {"reason": "Forbidden", "message": 'pods is forbidden: User "x" cannot list'})
    watch, _ = watching(answers, monkeypatch)

    until(lambda: "cannot list" in watch.away)


def test_a_pod_that_was_created_while_the_list_was_asked_for_is_not_lost():
    ended: list[tuple[str, str]] = []

    class SlowApi:
        """Its list is older than a pod that is created before it has come."""

        def get(self, *_, **__):
            watch.saw(pod("newer", "10"))
            return listed("9", pod("a", "3"))

    log = structlog.get_logger()
    scope = PodScope(SlowApi(), Kubernetes(namespace="jobs", user_namespaces=True))
    watch = pod_watch.PodWatch(SlowApi(), scope, "", log, lambda *one: ended.append(one))
    watch.saw(pod("older", "4"))

    watch._list()

    assert watch.names() == {"a", "newer"}
    assert [name for name, _ in ended] == ["older"]


ALICE = {"namespace": "user-alice", "labels": {SITE: "jobs"}}


def test_pods_of_one_name_in_two_namespaces_are_two_and_the_name_ends_with_the_last(
    answers, monkeypatch
):
    """One of before `kubernetes.user_namespaces` was switched, one of after."""
    both = pod("a", "3"), pod("a", "4", uid="other", **ALICE)
    answers.add(200, listed("5", *both))
    answers.add(200, event("DELETED", pod("a", "6")))
    answers.add(200, event("DELETED", pod("a", "7", uid="other", **ALICE)))
    watch, ended = watching(answers, monkeypatch)

    until(lambda: len(answers.asked) > 3)

    assert watch.pods("a") == []
    assert ended == [("a", "its pod was deleted")]


def test_pods_of_other_sites_in_the_same_cluster_are_not_seen(answers, monkeypatch):
    theirs = [
        pod("a", "1", uid="1", namespace="others"),
        pod("b", "2", uid="2", namespace="user-bob", labels={SITE: "others"}),
        pod("c", "3", uid="3", namespace="kube-system", labels={SITE: "jobs"}),
        pod("d", "4", uid="4", **ALICE),
    ]
    answers.add(200, listed("5", *theirs))
    answers.add(200, event("DELETED", theirs[0]), event("DELETED", theirs[2]))
    watch, ended = watching(answers, monkeypatch)

    until(lambda: len(answers.asked) > 2)

    assert [watch.pods(name) for name in "abcd"] == [[], [], [], [theirs[3]]]
    assert ended == []


def test_without_the_setting_the_agent_looks_as_far_as_it_may(answers):
    """Users' namespaces may hold pods of before it was switched off."""
    api = Api(answers.settings())
    scope = PodScope(api, dataclasses.replace(answers.settings(), namespace="jobs"))
    for is_allowed in (True, False):
        answers.add(201, {"status": {"allowed": is_allowed}})

    assert [scope.find(), scope.find()] == ["/api/v1/pods", "/api/v1/namespaces/jobs/pods"]
    assert answers.asked[0]["path"].endswith("/selfsubjectaccessreviews")
