"""What is asked of the authorizer, and what its answers mean."""

import json

import pytest

from bridge.config import Config, Kubernetes
from bridge.runtimes.kubernetes import rights
from bridge.runtimes.kubernetes.api import Api
from bridge.runtimes.kubernetes.rights import Authorizer, Right

CONFIG = Config(kubernetes=Kubernetes(namespace="jobs"))
USERS = Config(kubernetes=Kubernetes(namespace="jobs", user_namespaces=True))


def test_rights_are_written_as_people_say_them():
    assert str(Right("get", "secrets", "jobs")) == "get secrets in jobs"
    assert str(Right("list", "roles", "", "rbac")) == "list roles.rbac"


def test_what_is_needed_is_in_the_role_and_never_harmful():
    needed = rights.needed(CONFIG)
    assert Right("watch", "pods", "jobs") in needed
    assert len(needed) == 6
    assert not set(needed) & set(rights.harmful(CONFIG))


def test_what_is_needed_in_all_namespaces_is_not_harmful_there_and_else_is():
    needed = rights.needed(USERS)
    assert Right("list", "pods") in needed
    assert Right("create", "namespaces") in needed
    assert not set(needed) & set(rights.harmful(USERS))
    assert {Right("list", "pods"), Right("create", "pods", "default")} <= set(
        rights.harmful(CONFIG)
    )


@pytest.mark.parametrize(
    ("is_agent", "kind", "user"),
    [
        (True, "selfsubjectaccessreviews", None),
        (False, "subjectaccessreviews", "system:serviceaccount:jobs:sbridge-agent"),
    ],
)
def test_the_agent_asks_for_himself_and_an_administrator_about_him(answers, is_agent, kind, user):
    answers.add(201, {"status": {"allowed": True}})
    authorizer = Authorizer(Api(answers.settings()), "jobs", is_agent=is_agent)
    assert authorizer.allows(Right("create", "pods/exec", "jobs"))
    spec = json.loads(answers.asked[0]["body"])["spec"]
    assert answers.asked[0]["path"].endswith(f"/v1/{kind}")
    assert spec.get("user") == user
    asked = spec["resourceAttributes"]
    assert (asked["resource"], asked["subresource"]) == ("pods", "exec")


def test_surplus_is_what_is_neither_needed_nor_everybodys(answers):
    answers.add(
        201,
        {
            "status": {
                "resourceRules": [
                    {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
                     "resources": ["selfsubjectaccessreviews"]},
                    {"verbs": ["create", "patch"], "apiGroups": [""], "resources": ["pods"]},
                    {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]},
                ]
            }
        },
    )  # fmt: skip
    assert rights.surplus(Api(answers.settings()), CONFIG) == ["* *.apps", "patch pods"]
