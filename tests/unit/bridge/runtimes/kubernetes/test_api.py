"""How the API's answers become objects and errors."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from kubernetes.config import incluster_config

from bridge.config import Kubernetes
from bridge.errors import ConfigError, TemporaryError
from bridge.runtimes.kubernetes.api import Api, ExpiredError, RefusedError

PODS = "/api/v1/namespaces/jobs/pods"


def refusal(status: int, reason: str, message: str) -> dict[str, object]:
    return {"kind": "Status", "code": status, "reason": reason, "message": message}


def test_an_object_is_read_with_its_query(answers):
    answers.add(200, {"items": []})

    assert Api(answers.settings()).get(PODS, labelSelector="app=slurm-job") == {"items": []}

    assert answers.asked[0]["path"] == f"{PODS}?labelSelector=app%3Dslurm-job"
    assert answers.asked[0]["token"] == "Bearer first"


def test_a_no_has_its_status_reason_and_message(answers):
    answers.add(409, refusal(409, "AlreadyExists", 'pods "a" already exists'))

    with pytest.raises(RefusedError, match='pods "a" already exists') as caught:
        Api(answers.settings()).create(PODS, {"kind": "Pod"})

    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    assert json.loads(answers.asked[0]["body"]) == {"kind": "Pod"}


def test_a_no_that_is_not_json_is_told_as_it_is(answers):
    answers.add(403, "a proxy says no")

    with pytest.raises(RefusedError, match="a proxy says no"):
        Api(answers.settings()).get(PODS)


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_what_may_pass_by_itself_is_temporary(answers, status):
    answers.add(status, refusal(status, "Busy", "etcd is slow"))

    with pytest.raises(TemporaryError, match="etcd is slow"):
        Api(answers.settings()).get(PODS)


def test_a_broken_connection_is_temporary_and_the_request_not_repeated(answers):
    api = Api(answers.settings())

    with pytest.raises(TemporaryError, match="does not answer"):
        api.create(PODS, {"kind": "Pod"})

    assert len(answers.asked) == 1


def test_nobody_listening_is_temporary(answers):
    settings = answers.settings()
    kubeconfig = answers.folder / "kubeconfig"
    kubeconfig.write_text(kubeconfig.read_text().replace(answers.address, "http://127.0.0.1:9"))

    with pytest.raises(TemporaryError, match="does not answer"):
        Api(settings).get(PODS)


def test_a_rotated_token_is_read_after_the_first_refusal(answers, monkeypatch):
    monkeypatch.setattr("bridge.runtimes.kubernetes.api._REBUILD_S", 0.0)
    api = Api(answers.settings("first"))
    answers.settings("second")
    answers.add(401, refusal(401, "Unauthorized", "Unauthorized"))
    answers.add(200, {"items": []})

    assert api.get(PODS) == {"items": []}

    assert [asked["token"] for asked in answers.asked] == ["Bearer first", "Bearer second"]


def test_a_token_that_stays_refused_is_a_no(answers):
    answers.add(401, refusal(401, "Unauthorized", "Unauthorized"))
    answers.add(401, refusal(401, "Unauthorized", "Unauthorized"))

    with pytest.raises(RefusedError, match="Unauthorized"):
        Api(answers.settings()).get(PODS)


def test_deleting_what_is_gone_is_fine(answers):
    answers.add(404, refusal(404, "NotFound", "no such pod"))

    assert not Api(answers.settings()).delete(f"{PODS}/a", grace_s=0)

    body = json.loads(answers.asked[0]["body"])
    assert body["gracePeriodSeconds"] == 0


def test_another_object_of_the_same_name_is_not_deleted(answers):
    answers.add(409, refusal(409, "Conflict", "the UID in the precondition does not match"))

    assert not Api(answers.settings()).delete(f"{PODS}/a", uid="old")

    assert json.loads(answers.asked[0]["body"])["preconditions"] == {"uid": "old"}


def test_a_watch_yields_events_until_it_ends(answers):
    added = {"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "5"}}}
    answers.add(200, added, {**added, "type": "DELETED"})

    events = list(Api(answers.settings()).watch(PODS, "4", labelSelector="x=y"))

    assert [event["type"] for event in events] == ["ADDED", "DELETED"]
    assert "resourceVersion=4" in answers.asked[0]["path"]


@pytest.mark.parametrize(
    "said",
    [
        (410, refusal(410, "Expired", "too old resource version")),
        (200, {"type": "ERROR", "object": refusal(410, "Expired", "too old resource version")}),
    ],
)
def test_a_watch_from_too_old_a_version_has_expired(answers, said):
    answers.add(*said)

    with pytest.raises(ExpiredError, match="too old"):
        list(Api(answers.settings()).watch(PODS, "4"))


def test_server_side_apply_sends_what_the_server_takes_for_it(answers):
    answers.add(200, {"kind": "Role"})

    Api(answers.settings()).apply("/x", {"kind": "Role"}, dry_run=True)

    assert answers.asked[0]["type"] == "application/apply-patch+yaml"
    assert "dryRun=All" in answers.asked[0]["path"]
    assert json.loads(answers.asked[0]["body"]) == {"kind": "Role"}


def test_missing_credentials_name_the_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"kubernetes\.kubeconfig: no credentials in"):
        Api(Kubernetes(kubeconfig=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="is empty"):
        Api(dataclasses.replace(Kubernetes(), kubeconfig=""))


@pytest.mark.parametrize("text", ["clusters: [{name: c, clu", "hello", "clusters: 5\n", "\0"])
def test_a_kubeconfig_that_is_half_written_is_the_administrators_error(tmp_path, text):
    (tmp_path / "half").write_text(text)
    with pytest.raises(ConfigError, match=r"kubernetes\.kubeconfig: no credentials in .*half"):
        Api(Kubernetes(kubeconfig=str(tmp_path / "half")))


def test_a_kubeconfig_that_is_being_replaced_is_waited_for(answers, monkeypatch):
    monkeypatch.setattr("bridge.runtimes.kubernetes.api._REBUILD_S", 0.0)
    api = Api(answers.settings())
    (answers.folder / "kubeconfig").write_text("clusters: [{name: c, clu")
    answers.add(401, refusal(401, "Unauthorized", "Unauthorized"))
    with pytest.raises(TemporaryError, match="no credentials in"):
        api.get(PODS)

    answers.settings("second")
    answers.add(200, {"items": []})
    assert api.get(PODS) == {"items": []}


def test_a_pods_token_that_is_half_written_is_waited_for(tmp_path, monkeypatch):
    """The client looks at the file each minute, in the middle of a request."""
    for name, content in (("token", "first"), ("ca.crt", "certificates")):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")
    api = Api(Kubernetes())
    tomorrow = (datetime.now(UTC) + timedelta(days=2)).replace(tzinfo=None)
    later = SimpleNamespace(datetime=SimpleNamespace(now=lambda: tomorrow))
    monkeypatch.setattr(incluster_config, "datetime", later)
    (tmp_path / "token").write_text("")
    with pytest.raises(TemporaryError, match="empty"):
        api.get(PODS)
