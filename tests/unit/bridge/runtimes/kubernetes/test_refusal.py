"""Whose fault a pod is that the API server refuses."""

import pytest

from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes import refusal
from bridge.runtimes.kubernetes.api import RefusedError
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
        (403, 'admission webhook "tags" denied the request: latest cannot be used', UserError),
        (
            403,
            'pods "a" is forbidden: status unknown for quota: q, resources: pods',
            TemporaryError,
        ),
        (401, "Unauthorized", TemporaryError),
        (404, 'namespaces "jobs" not found', TemporaryError),
        (422, "spec.containers[0].image: Required value", UserError),
    ],
)
def test_only_what_the_job_asked_for_is_the_users_fault(status, text, kind):
    assert type(refusal.blame(RefusedError(status, "", text), "pod a")) is kind
