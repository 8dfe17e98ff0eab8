"""sbcast reads the sandbox's file, and copies to where tasks see the copy."""

import pytest

from bridge.slurm import sbcast


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["a", "/s/b"], ["a", "/s"]),
        (["-f", "-F", "4", "--size=1m", "a", "/b"], ["a", "/"]),
        (["-C", "a", "-t", "5", "b", "--force"], ["a", "."]),
        (["a", "/s/"], ["a", "/s"]),
        (["a"], []),
        (["--version"], []),
    ],
)
def test_the_paths_are_found_among_the_options(words, paths):
    assert sbcast.paths_inside(words) == paths


def test_the_open_file_takes_the_place_of_its_name():
    shared = sbcast.shared(["-f", "x/a", "/s/"], {"x/a": 600}, {"/s"}.__contains__)
    assert shared == ["-f", "/proc/self/fd/600", "/s/a"]


def test_a_copy_outside_of_the_sandboxes_is_refused():
    with pytest.raises(sbcast.UnsharedError, match="/tmp/b would be outside"):
        sbcast.shared(["a", "/tmp/b"], {"a": 600}, {"/s"}.__contains__)
