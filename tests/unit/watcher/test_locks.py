import os
import signal

import pytest

from bridge.errors import ConfigError, PermanentError
from watcher.locks import StateFolder

TAG, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def in_a_child():
    """Run a function in a process that stays until the test is over."""
    pids = []

    def run(function):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                function()
                os.write(theirs, b"x")
                signal.pause()
            finally:
                os._exit(0)
        pids.append(pid)
        os.close(theirs)
        assert os.read(ours, 1) == b"x"
        os.close(ours)
        return pid

    yield run
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_only_one_process_has_the_state_folder(state, tmp_path, in_a_child):
    def second():
        with pytest.raises(PermanentError, match="another sbridge-watcher is running"):
            StateFolder(tmp_path / "state")

    in_a_child(second)


def test_children_do_not_keep_the_state_folder(tmp_path, in_a_child):
    state = StateFolder(tmp_path / "state")
    in_a_child(lambda: None)
    state.close()
    in_a_child(lambda: StateFolder(tmp_path / "state"))


def test_a_state_folder_that_cannot_be_made_names_the_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"watcher\.state_dir: .*file/state"):
        StateFolder(tmp_path / "file/state")


def test_a_lock_is_held_by_the_child_that_inherited_it(state, in_a_child):
    lock = state.lock(TAG)
    in_a_child(lambda: None)
    os.close(lock)
    assert not state.is_free(TAG)
    assert state.lock(TAG) is None
    assert state.is_free(OTHER)


def test_a_lock_ends_with_its_last_holder(state, in_a_child):
    lock = state.lock(TAG)
    os.close(lock)
    assert state.is_free(TAG)


def test_asking_for_a_lock_that_is_not_there_makes_none(state, tmp_path):
    assert state.is_free(TAG)
    assert not (tmp_path / "state/locks" / TAG).exists()


def test_a_sweep_removes_what_nobody_needs(state, tmp_path, in_a_child):
    held = state.lock(TAG)
    for tag in (OTHER, "c" * 32):
        os.close(state.lock(tag))
    state.sweep({OTHER})
    assert sorted(path.name for path in (tmp_path / "state/locks").iterdir()) == [TAG, OTHER]
    os.close(held)


def test_the_folder_is_roots_alone(state, tmp_path):
    assert (tmp_path / "state/locks").stat().st_mode & 0o077 == 0
