"""Pods whose place the agent does not know yet; what is really removed is tested on a cluster."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import time

import structlog

from bridge import kernel
from bridge.runtimes.kubernetes import pod_removal
from bridge.runtimes.kubernetes.api import Api
from bridge.runtimes.kubernetes.pod_scope import PodScope
from bridge.runtimes.kubernetes.pod_watch import PodWatch
from bridge.runtimes.sandbox import Sandbox

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
    left = pod_removal._Rest(frozenset({"u"}))
    removal._unremoved["a"] = left
    removal._remove_late("a", left)
    assert "a" in removal._unremoved


def test_a_new_pod_is_not_removed_for_an_old_one_that_had_its_name(answers):
    watch, removal = made(answers)
    answers.add(503, {"reason": "Busy", "message": "etcd is slow"})
    removal.remove("a", None)  # nothing was listed yet, so no uid is known
    (due,) = removal._unremoved.items()

    removal.expect("a", "jobs")
    answers.add(200, {"metadata": {"resourceVersion": "5"}, "items": []})
    watch._list()
    watch.saw({"metadata": {"name": "a", "namespace": "jobs", "uid": "new"}})
    before = len(deleted(answers))
    removal._remove_late(*due)
    assert len(deleted(answers)) == before


def test_what_is_left_of_a_pod_is_not_forgotten_for_an_older_one_that_had_its_name(
    answers, monkeypatch
):
    watch, removal = made(answers)
    answers.add(200, {"metadata": {"resourceVersion": "5"}, "items": []})
    watch._list()
    older = pod_removal._Rest(frozenset({"older"}))
    newer = pod_removal._Rest(frozenset({"newer"}))
    removal._unremoved["a"] = older

    def remove_another(_uid):
        removal.expect("a", "jobs")
        removal._unremoved["a"] = newer

    monkeypatch.setattr(pod_removal.processes, "kill_pod", remove_another)
    removal._remove_late("a", older)
    assert removal._unremoved["a"] is newer


def test_the_first_process_is_killed_whoever_has_its_pid_by_now(monkeypatch):
    """As `kill` would not: the process may have ended since it was looked at."""
    with subprocess.Popen(["sleep", "60"]) as other, subprocess.Popen(["true"]) as ended:
        held = kernel.open_process(ended.pid)
        ended.wait()
        monkeypatch.setattr(kernel, "open_process", lambda _: os.dup(held))
        monkeypatch.setattr(kernel, "start_ticks", lambda _: 1)
        pod_removal._kill_init(Sandbox("a", other.pid, 1))
        other.terminate()
        assert other.wait() == -signal.SIGTERM
    os.close(held)
