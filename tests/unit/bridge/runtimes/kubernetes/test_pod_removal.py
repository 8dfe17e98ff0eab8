"""Pods whose place the agent does not know yet; what is really removed is tested on a cluster."""

import dataclasses
import errno
import json
import time

import structlog

from bridge.runtimes.kubernetes import pod_removal
from bridge.runtimes.kubernetes.api import Api
from bridge.runtimes.kubernetes.pod_scope import PodScope
from bridge.runtimes.kubernetes.pod_watch import PodWatch

NOT_FOUND = 404, {"reason": "NotFound", "message": "there is none"}


def made(answers):
    api, log = Api(answers.settings()), structlog.get_logger()
    settings = dataclasses.replace(answers.settings(), namespace="jobs", user_namespaces=True)
    watch = PodWatch(api, PodScope(api, settings), "", log, lambda *_: None)
    return watch, pod_removal.PodRemoval(api, "jobs", watch, log)


def deleted(answers):
    return [asked["path"] for asked in answers.asked if asked["method"] == "DELETE"]


def test_a_pod_is_removed_where_it_was_going_to_be_made(answers):
    """Its creation may never have been answered."""
    _, removal = made(answers)
    answers.add(200, {})
    removal.expect("a", "user-alice")
    removal.remove("a", None)
    assert deleted(answers) == ["/api/v1/namespaces/user-alice/pods/a"]


def test_a_pod_of_before_the_agents_start_is_removed_wherever_the_first_list_finds_it(
    answers, monkeypatch
):
    monkeypatch.setattr(pod_removal, "_RETRY_S", 0.02)
    watch, removal = made(answers)
    answers.add(*NOT_FOUND)
    removal.remove("a", None)  # before anything was listed

    labels = {"sbridge/site": "jobs"}
    metadata = {"name": "a", "namespace": "user-alice", "uid": "u", "labels": labels}
    answers.add(200, {"metadata": {"resourceVersion": "5"}, "items": [{"metadata": metadata}]})
    watch._list()
    answers.add(200, {})
    removal.start()

    deadline = time.monotonic() + 10
    while len(deleted(answers)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert deleted(answers)[:2] == [
        "/api/v1/namespaces/jobs/pods/a",
        "/api/v1/namespaces/user-alice/pods/a",
    ]
    late = next(one for one in answers.asked if one["path"].endswith("user-alice/pods/a"))
    assert json.loads(late["body"])["preconditions"] == {"uid": "u"}


def test_late_removal_outlives_a_lack_of_descriptors(answers, monkeypatch):
    watch, removal = made(answers)
    answers.add(200, {"metadata": {"resourceVersion": "5"}, "items": []})
    watch._list()

    def out_of_descriptors(_uid):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pod_removal.processes, "kill_pod", out_of_descriptors)
    removal._unremoved["a"] = frozenset({"u"})
    removal._remove_late("a", frozenset({"u"}))
    assert "a" in removal._unremoved
