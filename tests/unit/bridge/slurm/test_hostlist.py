"""Hostlists, as Slurm writes them."""

import pytest

from bridge.slurm.hostlist import expand_hostlist


@pytest.mark.parametrize(
    ("hostlist", "names"),
    [
        ("n1", ["n1"]),
        ("n1,n2", ["n1", "n2"]),
        ("n[1-3,07]", ["n1", "n2", "n3", "n07"]),
        ("a[01-02]x,b", ["a01x", "a02x", "b"]),
        ("a[1-2]b[3,4]", ["a1b3", "a1b4", "a2b3", "a2b4"]),
        ("n1,,n2,", ["n1", "n2"]),
        ("", []),
    ],
)
def test_hostlists_are_expanded(hostlist, names):
    assert expand_hostlist(hostlist) == names


@pytest.mark.parametrize(
    "text", ["n[1-", "n1]", "n[[1]]", "n[a-b]", "n[]", "n[1-]", "n[3-1]", "n[1-9999999999]"]
)
def test_what_is_no_hostlist_is_refused(text):
    with pytest.raises(ValueError, match=r"bracket|no range|more than"):
        expand_hostlist(text)
