"""Words and blame for pods that do not run."""

import pytest

from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes import waiting
from bridge.runtimes.kubernetes.api import RefusedError
from bridge.runtimes.kubernetes.waiting import Pull
from bridge.runtimes.sandbox import UserError


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (403, 'pods "a" is forbidden: exceeded quota: q, requested: cpu=9', UserError),
        (403, 'pods is forbidden: User "u" cannot create resource "pods"', TemporaryError),
        (
            403,
            "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'sbridge-pods.jobs' with binding"
            " 'sbridge-pods.jobs' denied request: a sandbox does not mount /data",
            TemporaryError,
        ),
        (403, 'pods "a" is forbidden: violates PodSecurity "baseline:latest"', TemporaryError),
        (403, 'pods "a" is forbidden: no PriorityClass with name x was found', TemporaryError),
        (403, "ValidatingAdmissionPolicy 'no-latest' denied request: use a tag", UserError),
        (401, "Unauthorized", TemporaryError),
        (404, 'namespaces "jobs" not found', TemporaryError),
        (422, "spec.containers[0].image: Required value", UserError),
    ],
)
def test_only_what_the_job_asked_for_is_the_users_fault(status, text, kind):
    assert type(waiting.refused(RefusedError(status, "", text), "pod a")) is kind


@pytest.mark.parametrize(
    ("message", "pull", "words"),
    [
        (
            'Successfully pulled image "x" in 1.5s (2m3.1s including waiting). Image size:'
            " 31457280 bytes.",
            Pull("1.5s", 31457280),
            "1.5s, 30 MiB",
        ),
        (
            'Successfully pulled image "x" in 12ms. Image size: 1089181 bytes.',
            Pull("12ms", 1089181),
            "12ms, 1.0 MiB",
        ),
        ('Successfully pulled image "x" in 3m', Pull(), ""),
        ('Container image "x" already present on machine', Pull(), ""),
    ],
)
def test_a_kubelets_word_about_a_pull_is_understood(message, pull, words):
    found = waiting.pull_of([{"reason": "Scheduled"}, {"reason": "Pulled", "message": message}])
    assert found == pull
    assert str(found) == words


def test_without_a_word_the_image_is_not_there():
    assert waiting.pull_of([{"reason": "Pulling", "message": 'Pulling image "x"'}]) is None
