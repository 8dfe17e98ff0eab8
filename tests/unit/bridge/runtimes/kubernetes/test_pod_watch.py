"""What the agent knows of its pods, through every kind of interruption."""

import time

import structlog

from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes import pod_watch
from bridge.runtimes.kubernetes.api import Api

PODS = "/api/v1/namespaces/jobs/pods"


def pod(name: str, version: str, **metadata: str) -> dict[str, object]:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version, **metadata},
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
    watch = pod_watch.PodWatch(
        Api(answers.settings()),
        PODS,
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

    assert watch.pod("a") is None
    assert watch.pod("c") is not None
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
    assert watch.pod("b") is not None
    assert "resourceVersion=99" in answers.asked[3]["path"]


def test_what_was_known_stays_while_the_api_is_away_but_nothing_counts_as_gone(
    answers, monkeypatch
):
    answers.add(200, listed("5", pod("a", "3")))
    watch, ended = watching(answers, monkeypatch)

    until(lambda: watch.away and watch.pod("a"))

    assert names(watch) is None
    assert ended == []
    answers.add(200, event("BOOKMARK", pod("", "6")))
    until(lambda: any("resourceVersion=6" in asked["path"] for asked in answers.asked))
    assert watch.pod("a") is not None


def test_a_waiter_wakes_when_its_pod_changes(answers, monkeypatch):
    answers.add(200, listed("5", pod("a", "3")))
    answers.add(200, event("MODIFIED", pod("a", "6", deletionTimestamp="now")))
    watch, ended = watching(answers, monkeypatch)

    until(lambda: watch.pod("a") and watch.pod("a")["metadata"]["resourceVersion"] == "6")
    seen = watch.pod("a")

    assert watch.wait("a", seen, 0.01) is seen
    assert watch.wait("a", None, 1.0) is seen
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
    watch = pod_watch.PodWatch(SlowApi(), PODS, "", log, lambda *one: ended.append(one))
    watch.saw(pod("older", "4"))

    watch._list()

    assert watch.names() == {"a", "newer"}
    assert [name for name, _ in ended] == ["older"]
