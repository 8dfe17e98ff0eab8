"""Pods of which nothing stays, whatever happens meanwhile."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from bridge.errors import PermanentError, TemporaryError
from bridge.runtimes.kubernetes import short_lived
from bridge.runtimes.kubernetes.api import Api
from bridge.runtimes.kubernetes.short_lived import CancelledError, ShortLivedPod

MANIFEST = {"kind": "Pod", "metadata": {"name": "a", "labels": {"app": "x"}}, "spec": {}}
LIVE = {"metadata": {"name": "a", "uid": "u1"}, "spec": {}}
GONE = {"items": []}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(short_lived, "_LOOK_S", 0.01)


def pod(answers, cancelled=None):
    event = cancelled or threading.Event()
    return ShortLivedPod(Api(answers.settings()), "jobs", MANIFEST, 90.0, event)


def test_a_pod_is_created_with_a_deadline_and_a_mark_and_removed_by_its_uid(answers):
    for answer in (LIVE, {"items": [LIVE]}, {}, GONE):
        answers.add(200, answer)
    with pod(answers):
        pass
    created, looked, deleted, _ = answers.asked
    body = json.loads(created["body"])
    assert body["spec"]["activeDeadlineSeconds"] == 90
    mark = body["metadata"]["labels"]["sbridge/short-lived"]
    assert body["metadata"]["labels"]["app"] == "x"
    assert mark in looked["path"]
    assert deleted["method"] == "DELETE"
    assert json.loads(deleted["body"])["preconditions"] == {"uid": "u1"}
    assert "sbridge/short-lived" not in MANIFEST["metadata"]["labels"]


def test_a_pod_of_that_name_that_is_there_already_is_left_alone(answers):
    answers.add(409, {"code": 409, "reason": "AlreadyExists", "message": "exists"})
    with pytest.raises(PermanentError, match="pod a is there already"), pod(answers):
        pass
    assert [asked["method"] for asked in answers.asked] == ["POST"]


def test_a_pod_that_may_have_been_created_is_removed(answers):
    answers.add(504, {"code": 504, "reason": "Timeout", "message": "timed out"})
    for answer in ({"items": [LIVE]}, {}, GONE):
        answers.add(200, answer)
    with pytest.raises(TemporaryError, match="timed out"), pod(answers):
        pass
    assert [asked["method"] for asked in answers.asked] == ["POST", "GET", "DELETE", "GET"]


def test_a_pod_that_stays_is_told_with_the_way_to_remove_it(answers, monkeypatch):
    monkeypatch.setattr(short_lived, "_GONE_TIMEOUT_S", 0.05)
    answers.add(201, LIVE)  # and then the server hangs up
    with pytest.raises(PermanentError, match="may still be there") as caught, pod(answers):
        pass
    assert "kubectl delete pod a" in caught.value.hint


def test_looking_gives_the_events_in_order_until_the_time_is_over(answers):
    answers.add(201, LIVE)
    late = {"reason": "b", "firstTimestamp": "2026-01-01T00:00:02Z"}
    early = {"reason": "a", "eventTime": "2026-01-01T00:00:01.5Z"}
    answers.add(200, {"items": [LIVE]})
    answers.add(200, {"items": [late, early]})
    with pod(answers) as made:
        live, events = next(made.looks(10))
        assert live == LIVE
        assert [event["reason"] for event in events] == ["a", "b"]
        assert list(made.looks(0)) == []
        answers.add(200, GONE)


def test_a_pod_that_somebody_else_deleted_is_told(answers):
    answers.add(201, LIVE)
    answers.add(200, GONE)
    answers.add(200, GONE)
    with pytest.raises(TemporaryError, match="deleted by somebody else"), pod(answers) as made:
        next(made.looks(10))


def test_who_does_not_want_to_wait_need_not_and_the_pod_is_removed(answers):
    cancelled = threading.Event()
    cancelled.set()
    answers.add(201, LIVE)
    for answer in ({"items": [LIVE]}, {}, GONE):
        answers.add(200, answer)
    with pytest.raises(CancelledError), pod(answers, cancelled) as made:
        next(made.looks(10))
    assert answers.asked[-2]["method"] == "DELETE"


def test_only_pods_whose_time_is_long_over_are_swept(answers):
    def aged(name, seconds):
        made = (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = {"name": name, "uid": name, "creationTimestamp": made}
        return {"metadata": metadata, "spec": {"activeDeadlineSeconds": 100}}

    answers.add(200, {"items": [aged("young", 120), aged("old", 200), aged("older", 90000)]})
    answers.add(200, {})
    answers.add(200, {})
    short_lived.sweep(Api(answers.settings()), "jobs")
    deleted = [asked["path"] for asked in answers.asked[1:]]
    assert [path.rpartition("/")[2] for path in deleted] == ["old", "older"]
