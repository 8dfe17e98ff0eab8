"""What keepers note of ended steps, and what is read of it."""

import os
import resource

from bridge.agent import usage
from bridge.agent.usage import Usage


def waited_for(program):
    """Return what a child that runs this has used."""
    pid = os.fork()
    if pid == 0:
        program()
        os._exit(0)
    return os.wait4(pid, 0)[2]


def burn():
    while sum(os.times()[:2]) < 0.3:
        pass


def test_steps_are_added_and_the_largest_process_is_told(tmp_path):
    path = tmp_path / "usage"
    path.write_text("1.500 2000\n0.250 3000\n12.000 0\n")
    assert usage.read(path) == Usage(13.75, 3000)


def test_cpu_time_of_a_child_is_noted_and_the_memory_that_it_had_from_here_is_not(tmp_path):
    path = tmp_path / "usage"
    usage.note(str(path), waited_for(burn))
    noted = usage.read(path)
    assert 0.3 <= noted.cpu_s < 3
    assert noted.max_rss_kib == 0


def test_memory_of_a_child_is_noted(tmp_path):
    path = tmp_path / "usage"
    more_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 50_000
    usage.note(str(path), waited_for(lambda: bytearray(b"x") * (more_kib << 10)))
    assert usage.read(path).max_rss_kib >= more_kib


def test_nothing_is_known_of_steps_that_have_not_ended(tmp_path):
    assert usage.read(tmp_path / "usage") == Usage()


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path):
    path = tmp_path / "usage"
    path.write_text("1.000 10\n2.0")
    assert usage.read(path) == Usage(1.0, 10)


def test_a_step_is_not_bothered_when_nothing_can_be_noted(tmp_path):
    usage.note(str(tmp_path / "gone/usage"), resource.getrusage(resource.RUSAGE_SELF))
    assert list(tmp_path.iterdir()) == []
