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
        ("", []),
    ],
)
def test_hostlists_are_expanded(hostlist, names):
    assert expand_hostlist(hostlist) == names
