"""Why a pod does not run, told from its status and events."""

import pytest

from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes import waiting
from bridge.runtimes.sandbox import UserError

IMAGE = "registry.example:5000/tool:1"
NODE = {"nodeName": "k1"}
TAKEN = {"startTime": "2026-01-31T12:00:00Z"}


def pod(spec=None, **status):
    return {"spec": {"containers": [{"image": IMAGE}], **(spec or {})}, "status": status}


def ended(reason, exit_code, phase="Failed"):
    terminated = {"reason": reason, "exitCode": exit_code}
    return {"phase": phase, "containerStatuses": [{"state": {"terminated": terminated}}]}


def event(reason, message=""):
    return {"reason": reason, "message": message}


@pytest.mark.parametrize(
    ("given", "events", "text", "by_node"),
    [
        (pod(), [], "waiting for the scheduler of Kubernetes", False),
        (pod(NODE), [], "waiting for the kubelet of Kubernetes node k1", True),
        (pod(NODE, **TAKEN), [], "waiting for the container runtime of Kubernetes node k1", True),
        (pod(NODE, **TAKEN), [event("Pulling")], f"pulling image {IMAGE}", False),
        (pod(NODE, **TAKEN), [event("Created")], f"starting {IMAGE}", False),
        (
            pod(NODE, **TAKEN),
            [event("Pulling"), event("Pulled", 'Successfully pulled image "x" in 3.5s (4s)')],
            f"starting {IMAGE} (pulled in 3.5s)",
            False,
        ),
    ],
    ids=["unscheduled", "not taken", "taken", "pulling", "created", "pulled"],
)
def test_whoever_is_waited_for_is_told(given, events, text, by_node):
    assert waiting.progress(given, events) == (text, by_node)


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        ({"phase": "Failed", "reason": "OutOfcpu", "message": "no room"}, TemporaryError),
        ({"phase": "Failed", "reason": "Evicted", "message": "disk"}, TemporaryError),
        (ended("Error", 1), UserError),
        (ended("Error", 137), TemporaryError),
        (ended("OOMKilled", 1), TemporaryError),
        (ended("Completed", 0, "Succeeded"), TemporaryError),
        (
            {
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "InvalidImageName", "message": "bad"}}}
                ]
            },
            UserError,
        ),
    ],
    ids=["no room", "evicted", "not started", "killed", "no memory", "done", "bad name"],
)
def test_a_pod_that_will_never_run_has_somebody_to_blame(status, fault):
    with pytest.raises(fault):
        waiting.progress(pod(NODE, **TAKEN, **status), [])


def test_an_image_that_is_not_to_be_fetched_is_told_in_words_of_the_site():
    said = f'Container image "{IMAGE}" is not present with pull policy of Never'
    reason = {"reason": "ErrImageNeverPull", "message": said}
    given = pod(NODE, **TAKEN, containerStatuses=[{"state": {"waiting": reason}}])
    with pytest.raises(UserError, match=r"is not on this node, and this site has none fetched"):
        waiting.progress(given, [])
