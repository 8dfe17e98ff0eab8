"""The agents' kubeconfig, and what a token tells of itself."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest

from bridge.errors import PermanentError
from bridge.runtimes.kubernetes import credentials
from bridge.runtimes.kubernetes.api import Api, Server
from bridge.runtimes.kubernetes.credentials import Token

SOON = datetime.now(UTC) + timedelta(hours=1)


def jwt(claims):
    parts = (b"{}", json.dumps(claims).encode(), b"signature")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_a_token_is_asked_of_the_api_server_for_so_long(answers):
    answers.add(201, {"status": {"token": "t", "expirationTimestamp": "2030-01-02T03:04:05Z"}})
    token = credentials.request_token(Api(answers.settings()), "jobs", 3600)
    assert token == Token("t", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert answers.asked[0]["path"] == "/api/v1/namespaces/jobs/serviceaccounts/sbridge-agent/token"
    assert json.loads(answers.asked[0]["body"])["spec"] == {"expirationSeconds": 3600}


def test_without_the_account_the_command_that_makes_it_is_named(answers):
    answers.add(404, {"code": 404, "reason": "NotFound", "message": "serviceaccounts not found"})
    with pytest.raises(PermanentError, match="gets no token: serviceaccounts not found") as caught:
        credentials.request_token(Api(answers.settings()), "jobs", 3600)
    assert "sbridge kubernetes apply" in caught.value.hint


def test_a_kubeconfig_depends_on_no_other_file():
    server = Server("https://api:6443", "CA\n", "kube", is_verified=False)
    made = credentials.kubeconfig(server, "jobs", Token("t", SOON))
    assert made["clusters"][0]["cluster"] == {
        "server": "https://api:6443",
        "certificate-authority-data": "Q0EK",
        "tls-server-name": "kube",
        "insecure-skip-tls-verify": True,
    }
    assert made["users"][0]["user"] == {"token": "t"}
    assert made["contexts"][0]["context"]["namespace"] == "jobs"


def test_a_token_that_the_server_shortened_is_noticed():
    token = Token("t", datetime.now(UTC) + timedelta(hours=1))

    assert token.is_shorter_than(7200)
    assert not token.is_shorter_than(3600)


def test_a_token_tells_when_it_was_made_and_ends():
    assert credentials.life_of(jwt({"iat": 100, "exp": 1700000000})) == (100, 1700000000)


@pytest.mark.parametrize("text", ["", "opaque", "a.b.c", jwt({}), jwt([]), jwt({"exp": None})])
def test_a_token_may_tell_nothing(text):
    assert credentials.life_of(text) is None
