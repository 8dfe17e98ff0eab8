import os
import pwd
import select
import signal
import stat
import time
from pathlib import Path

import pytest

from bridge import as_user
from bridge.as_user import ChildCrashed, ChildLost
from bridge.errors import PermanentError, TemporaryError

SECONDS = 10.0


def status_fields() -> dict[str, str]:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_the_result_of_the_function_comes_back(in_child):
    assert in_child(lambda: {"a": [1, "한글", None]}) == {"a": [1, "한글", None]}


def test_a_name_that_is_not_utf8_survives(in_child):
    name = os.fsdecode(b"caf\xe9\xff")
    assert in_child(lambda: name) == name


def test_a_large_result_comes_back_whole(in_child):
    assert len(in_child(lambda: "x" * 3_000_000)) == 3_000_000


def test_the_function_runs_in_another_process_with_a_session_of_its_own(in_child):
    def facts():
        return [os.getpid(), os.getsid(0), str(Path.cwd()), os.umask(0)]

    pid, session, folder, umask = in_child(facts)
    assert pid != os.getpid()
    assert (session, folder, umask) == (pid, "/", 0o022)


def test_a_temporary_error_comes_back_as_one(in_child):
    def fail():
        raise TemporaryError("the NAS is away", retry_after_s=7, hint="wait")

    with pytest.raises(TemporaryError, match="the NAS is away") as caught:
        in_child(fail)
    assert (caught.value.retry_after_s, caught.value.hint) == (7, "wait")


def test_a_permanent_error_comes_back_as_one(in_child):
    def fail():
        raise PermanentError("no", hint="never")

    with pytest.raises(PermanentError, match="no\nnever"):
        in_child(fail)


def test_an_os_error_comes_back_as_temporary_with_its_file(in_child, open_dir):
    gone = open_dir / "gone"
    with pytest.raises(TemporaryError, match=f"{gone}: No such file or directory"):
        in_child(lambda: os.stat(gone).st_size)


def test_an_unforeseen_exception_comes_back_with_its_traceback(in_child):
    with pytest.raises(ChildCrashed, match="ZeroDivisionError"):
        in_child(lambda: 1 // 0)


def test_a_result_that_is_no_json_is_a_lost_child(in_child):
    with pytest.raises(ChildLost, match="exit code 1"):
        in_child(object)


def test_a_child_that_dies_is_lost_and_says_of_what(in_child):
    with pytest.raises(ChildLost, match="was ended by SIGKILL"):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_child_that_takes_too_long_is_ended(in_child):
    began = time.monotonic()
    with pytest.raises(ChildLost, match=r"did not answer within 0\.1 s"):
        in_child(signal.pause, 0.1)
    assert time.monotonic() - began < 5


def test_kill_ends_also_what_the_child_started():
    def start_another():
        os.fork()
        os.write(theirs, b"x")
        signal.pause()

    ours, theirs = os.pipe()
    child = as_user.start(start_another, timeout_s=SECONDS)
    assert len(os.read(ours, 1) + os.read(ours, 1)) == 2
    os.close(theirs)
    child.kill()
    assert os.read(ours, 1) == b""  # both have let go of the pipe
    os.close(ours)
    while not child.receive():
        select.select([child], [], [], SECONDS)
    with pytest.raises(ChildLost):
        child.result()


def test_a_child_can_be_waited_for_in_a_selector():
    child = as_user.start(lambda: 42, timeout_s=SECONDS)
    while True:
        assert select.select([child], [], [], SECONDS)[0] == [child]
        if child.receive():
            break
    assert child.result() == 42


def test_a_child_that_shall_end_with_its_parent_does(in_child):
    ours, theirs = os.pipe()

    def parent():
        # Dies right after it has started a child that would wait for ever.
        as_user.start(signal.pause, timeout_s=SECONDS, ends_with_parent=True)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildLost):
        in_child(parent)
    os.close(theirs)
    readable, _, _ = select.select([ours], [], [], SECONDS)
    assert readable
    assert os.read(ours, 1) == b""
    os.close(ours)


def test_the_parents_signal_handlers_do_not_run_in_the_child(in_child):
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(ChildLost, match="SIGTERM"):
            in_child(lambda: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_find_user_tells_the_account_and_its_groups():
    entry = pwd.getpwuid(os.getuid())
    user = as_user.find_user(os.getuid())
    assert (user.name, user.gid, user.home) == (entry.pw_name, entry.pw_gid, entry.pw_dir)
    assert user.gid in user.groups


def test_an_unknown_uid_is_an_error():
    with pytest.raises(PermanentError, match="uid 3999999999 is no account"):
        as_user.find_user(3999999999)


def test_becoming_oneself_needs_no_privilege(in_child, ordinary):
    def become():
        as_user.become(ordinary.uid, ordinary.gid, ordinary.groups)
        as_user.become(ordinary.uid, ordinary.gid, ordinary.groups)
        return os.getresuid()

    assert in_child(become) == [ordinary.uid] * 3


def test_a_child_that_became_a_user_has_nothing_of_roots_left(in_child, ordinary, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")

    def become():
        as_user.become(ordinary.uid, ordinary.gid, ordinary.groups)
        facts = status_fields()
        with pytest.raises(PermissionError):
            os.setuid(0)
        with pytest.raises(PermissionError):
            os.listdir("/root")
        return [facts, os.getresuid(), os.getresgid(), os.getgroups()]

    facts, uids, gids, groups = in_child(become)
    assert (uids, gids) == ([ordinary.uid] * 3, [ordinary.gid] * 3)
    assert sorted(groups) == sorted(set(ordinary.groups))
    for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[key], 16) == 0, key
    assert facts["NoNewPrivs"] == "1"


def test_what_a_child_writes_belongs_to_the_user(in_child, ordinary, open_dir):
    def write():
        as_user.become(ordinary.uid, ordinary.gid, ordinary.groups)
        (open_dir / "file").write_text("x")

    in_child(write)
    status = (open_dir / "file").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (ordinary.uid, 0o644)


def test_no_descriptor_is_left_in_the_parent(in_child):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        in_child(lambda: 1)
    assert len(os.listdir("/proc/self/fd")) == before
