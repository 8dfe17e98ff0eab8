"""Whose namespace is whose: names that Kubernetes takes, and that two users never share."""

import re

import pytest

from bridge.runtimes.kubernetes import user_namespace

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LONG = "a" * 58


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("alice", "user-alice"),
        ("alice-2", "user-alice-2"),
        ("007", "user-007"),
        (LONG, f"user-{LONG}"),
        ("Alice", "user-alice--1001"),
        ("a.b_c", "user-a-b-c--1001"),
        ("alice--1001", "user-alice-1001--1001"),
        ("alice-", "user-alice--1001"),
        ("LAB\\\\alice", "user-lab-alice--1001"),
        ("alice@example.org", "user-alice-example-org--1001"),
        ("사용자", "user--1001"),
        (LONG + "a", f"user-{'a' * 52}--1001"),
    ],
)
def test_a_users_namespace_has_a_name_that_kubernetes_takes(user, name):
    assert user_namespace.name_of(user, 1001) == name
    assert LABEL.fullmatch(name)
    assert len(name) <= 63


def test_two_users_never_share_one():
    users = [
        "alice",
        "Alice",
        "ALICE",
        "alice-",
        "_alice",
        "alice--1",
        "alice-1",
        "alice.1",
        LONG * 2,
    ]
    names = [user_namespace.name_of(user, uid) for uid, user in enumerate(users, start=1)]
    assert len(set(names)) == len(users)


def test_the_largest_uid_fits():
    assert len(user_namespace.name_of("A" * 99, 2**32 - 2)) <= 63
