"""What is told of podman's words; they are podman 4.3.1's own, and may hold an image's."""

import pytest

from bridge.errors import CommandError
from bridge.runtimes import complaint

CONTAINER = "5088a5fc3f7a3504dda55f625f75d25dd0e8d36bcab996fc8431aa6b051fcdba"


def failed(stderr, exit_code=125):
    return CommandError(["podman"], exit_code, stderr, f"ended with exit code {exit_code}")


def test_the_line_that_says_why_is_told_and_not_the_one_that_counts():
    stderr = f"starting container {CONTAINER}: runc: not a directory: OCI runtime error\n"
    stderr += "Error: failed to start 1 containers\n"
    assert complaint.reason(failed(stderr)) == "runc: not a directory: OCI runtime error"


def test_tries_that_podman_made_itself_are_not_told():
    retry = 'time="2026-11-22T09:25:22Z" level=warning msg="Failed, retrying in 1s ... (1/3)."\n'
    assert complaint.reason(failed(f"{retry}{retry}Error: pinging: denied")) == "pinging: denied"


def test_several_lines_are_told_as_one():
    assert complaint.reason(failed("Error: one\n\n  two\n")) == "one; two"


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ("Error: failed to start 1 containers", "failed to start 1 containers"),
        ('time="now" level=error msg="no \\"runc\\""', 'no \\"runc\\"'),
        ('time="now" level=error msg=lost', "lost"),
    ],
)
def test_a_line_that_says_little_is_told_when_there_is_no_other(only, told):
    assert complaint.reason(failed(only)) == told


def test_without_words_the_end_is_told():
    assert complaint.reason(failed("")) == "podman ended with exit code 125"


def test_control_characters_of_an_image_are_escaped():
    told = complaint.reason(failed("Error: lstat /v/\x1b[2J\u202e\x85\rx: denied"))
    assert told == r"lstat /v/\x1b[2J\u202e\x85\rx: denied"


def test_long_words_keep_their_begin_and_their_end():
    told = complaint.reason(failed("Error: lstat " + "\x01" * 1800 + ": no such file"))
    assert len(told) <= 400
    assert told.startswith("lstat ")
    assert told.endswith(": no such file")


@pytest.mark.parametrize(
    "said",
    [
        "Get: dial tcp 127.0.0.1:5407: connect: connection refused",
        "Get: net/http: TLS handshake timeout",
        "reading manifest: received unexpected HTTP status: 503 Service Unavailable",
        "toomanyrequests: pull rate limit",
        "writing blob: no space left on device",
        "getting image: database is locked",
    ],
)
def test_what_may_be_over_soon_is_worth_another_try(said):
    assert complaint.may_pass(failed(f"Error: {said}"))


@pytest.mark.parametrize("exit_code", [None, -9])
def test_a_command_that_did_not_end_by_itself_is_worth_another_try(exit_code):
    assert complaint.may_pass(failed("", exit_code))


def test_an_image_that_is_not_there_is_not_there_the_next_time_either():
    assert not complaint.may_pass(failed("Error: reading manifest 1 in r.io/x: manifest unknown"))
