import pytest

from bridge import request
from bridge.errors import PermanentError
from bridge.request import SandboxRequest

FULL = SandboxRequest(
    image="nas-hub.local:5407/alpine:latest",
    workdir="/작업 공간/a&b=c%d",
    script="/mnt/nas/scripts/x.py",
    runtime="podman",
    tag="4f00",
    file="실험 1 (복사본).sh",
)


def test_the_word_is_one_word_and_reads_back_as_the_request() -> None:
    word = FULL.word()
    assert " " not in word
    assert word.isascii()
    assert request.parse(word) == FULL


def test_the_word_is_as_documented() -> None:
    wanted = "sbridge1?image=nas-hub.local%3A5407%2Falpine%3Alatest&tag=4f"
    assert SandboxRequest(image="nas-hub.local:5407/alpine:latest", tag="4f").word() == wanted


def test_an_empty_request_is_the_marker_alone() -> None:
    assert SandboxRequest().word() == "sbridge1?"
    assert request.parse("sbridge1?") == SandboxRequest()


def test_unknown_keys_are_kept_apart_and_written_again() -> None:
    read = request.parse("sbridge1?image=a&port=80")
    assert (read.image, dict(read.unknown)) == ("a", {"port": "80"})
    assert read.word() == "sbridge1?image=a&port=80"


@pytest.mark.parametrize(
    "comment",
    ["sbridge1?image=a", "my own words sbridge1?image=a", "한글 sbridge1?image=a"],
)
def test_the_request_is_the_last_word_of_a_comment(comment: str) -> None:
    assert request.find(None, comment) == SandboxRequest(image="a")


@pytest.mark.parametrize(
    "comment", [None, "", "plain", "sbridge1?image=a and more", "sbridge2?image=a", "xsbridge1?"]
)
def test_a_comment_without_a_request_has_none(comment: str | None) -> None:
    assert request.find(comment) is None


def test_extra_goes_before_comment() -> None:
    assert request.find("sbridge1?image=extra", "sbridge1?image=comment") == SandboxRequest("extra")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("sbridge1?image", "malformed or repeated"),
        ("sbridge1?image=a&image=b", "malformed or repeated"),
        ("sbridge1?future=a&future=b", "malformed or repeated"),
        ("sbridge1?image=%ff", "not UTF-8"),
        ("sbridge1?image=a%00b", "without NUL"),
        ("sbridge1?future=%ff", "not UTF-8"),
        ("sbridge1?image=" + "a" * request.MAX_CHARACTERS, "longer than"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(word: str, reason: str) -> None:
    with pytest.raises(PermanentError, match=reason):
        request.find(word)


@pytest.mark.parametrize(
    ("comment", "own"),
    [
        ("my words sbridge1?image=a", "my words"),
        ("sbridge1?image=a", ""),
        ("my words", "my words"),
        ("", ""),
        ("two  blanks sbridge1?", "two  blanks"),
    ],
)
def test_the_users_own_comment_is_what_stands_before(comment: str, own: str) -> None:
    assert request.without_request(comment) == own
