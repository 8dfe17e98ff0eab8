"""What is said of objects that are made, changed, left or refused; real ones in integration."""

import json

import pytest

from bridge.errors import PermanentError
from bridge.runtimes.kubernetes import installation
from bridge.runtimes.kubernetes.api import Api

ROLE = {
    "kind": "Role",
    "metadata": {"name": "sbridge-agent", "namespace": "jobs"},
    "rules": [{"verbs": ["list"]}],
}
NAMESPACE = {"kind": "Namespace", "metadata": {"name": "jobs"}}


def live(version, **changes):
    metadata = {**ROLE["metadata"], "resourceVersion": version, "uid": "u", "managedFields": []}
    return {**ROLE, **changes, "metadata": metadata, "status": {"seen": version}}


def no(status, reason, message):
    return status, {"code": status, "reason": reason, "message": message}


def test_an_object_that_was_not_there_is_created(answers):
    answers.add(*no(404, "NotFound", "none"))
    answers.add(200, live("1"))
    outcomes = list(installation.install(Api(answers.settings()), [ROLE]))
    assert outcomes == [installation.Outcome("Role jobs/sbridge-agent", "created")]
    assert answers.asked[1]["method"] == "PATCH"
    assert json.loads(answers.asked[1]["body"]) == ROLE


@pytest.mark.parametrize(
    ("before", "done"), [(live("1"), "unchanged"), (live("1", rules=[]), "changed")]
)
def test_only_a_change_that_somebody_wished_is_one(answers, before, done):
    answers.add(200, before)
    answers.add(200, live("2"))
    (outcome,) = installation.install(Api(answers.settings()), [ROLE])
    assert outcome.done == done


def test_a_refused_object_is_told_and_the_next_one_made(answers):
    answers.add(200, live("1"))
    answers.add(*no(422, "Invalid", "roleRef cannot change"))
    answers.add(*no(404, "NotFound", "none"))
    answers.add(200, live("1"))
    outcomes = list(installation.install(Api(answers.settings()), [ROLE, ROLE]))
    assert [outcome.done for outcome in outcomes] == ["refused", "created"]
    assert outcomes[0].reason == "roleRef cannot change"


def test_a_difference_is_what_would_change_and_nothing_of_the_servers_own(answers):
    answers.add(200, live("1", rules=[{"verbs": ["*"]}]))
    answers.add(200, live("2"))
    (difference,) = installation.differences(Api(answers.settings()), [ROLE])
    changed = [line for line in difference.text.splitlines() if line[0] in "+-"]
    assert changed[2:] == ["-  - '*'", "+  - list"]
    assert not difference.is_missing
    assert "dryRun=All" in answers.asked[1]["path"]


def test_a_missing_object_is_all_difference_and_nothing_is_applied(answers):
    answers.add(*no(404, "NotFound", "none"))
    (difference,) = installation.differences(Api(answers.settings()), [ROLE])
    assert difference.is_missing
    assert "+kind: Role" in difference.text
    assert len(answers.asked) == 1


def test_what_the_server_will_not_answer_counts_as_a_difference(answers):
    answers.add(*no(403, "Forbidden", "you cannot get roles"))
    (difference,) = installation.differences(Api(answers.settings()), [ROLE])
    assert difference.text == "Role jobs/sbridge-agent: you cannot get roles\n"


def test_a_namespace_of_somebody_else_is_not_taken(answers):
    answers.add(200, {"metadata": {"name": "jobs", "labels": {"team": "web"}}})
    with pytest.raises(PermanentError, match="namespace jobs is there already") as caught:
        installation.refuse_foreign(Api(answers.settings()), [NAMESPACE, ROLE])
    assert "--adopt" in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        no(404, "NotFound", "none"),
        (200, {"metadata": {"labels": {"app.kubernetes.io/managed-by": "sbridge"}}}),
    ],
)
def test_a_namespace_that_is_free_or_ours_is_fine(answers, answer):
    answers.add(*answer)
    installation.refuse_foreign(Api(answers.settings()), [NAMESPACE, ROLE])
    assert len(answers.asked) == 1
