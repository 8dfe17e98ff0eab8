import errno
import hashlib
import json
import os
import resource
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.results import publish, remark, transfer, tree

from .conftest import STRANGER, UID, Site, fingerprint, run_as

HOSTILE_NAMES = [
    "한글 이름.txt".encode(),
    b"two\nlines",
    b"back\\slash",
    b"return\r",
    b"not utf-8 \xff\xfe",
    b" leading and trailing ",
    b"-rf",
    b"*",
    b"\\starts with one",
    b"tab\there",
    b"quote\"'$(touch x)",
    b"x" * 255,
]


def summary_of(site: Site) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((site.folder / "job_summary.json").read_bytes())
    return content


def skipped(site: Site) -> dict[str, str]:
    return {entry["path"]: entry["kind"] for entry in summary_of(site)["skipped"]}


def test_everything_a_job_left_is_published_and_verifies(site: Site) -> None:
    site.write("stdout.log", b"out\n")
    site.write("stderr.log", b"err\n")
    site.write("outputs/a.txt", b"a")
    site.write("outputs/deep/er/b.bin", bytes(range(256)) * 5000)
    answer = site.publish()
    assert answer == {
        "ok": True,
        "folder": "42",
        "already": False,
        "files": 2,
        "bytes": 1_280_001,
        "skipped": 0,
    }
    site.assert_complete()
    assert fingerprint(site.folder / "outputs") == fingerprint(site.outputs)
    listed = (site.folder / "checksums.txt").read_text().splitlines()
    assert [line.split("  ")[1] for line in listed] == [
        "stdout.log",
        "stderr.log",
        "outputs/a.txt",
        "outputs/deep/er/b.bin",
        "job_summary.txt",
    ]
    digest = hashlib.sha256((site.folder / "checksums.txt").read_bytes()).hexdigest()
    assert summary_of(site)["checksums"]["sha256"] == digest


def test_a_job_that_never_began_gets_empty_logs_and_a_summary(site: Site) -> None:
    site.outputs.rmdir()
    assert site.publish()["ok"] is True
    site.assert_complete()
    assert (site.folder / "stdout.log").read_bytes() == b""
    assert summary_of(site)["outputs"]["files"] == 0
    assert summary_of(site)["skipped_count"] == 0


def test_a_plain_job_without_outputs_has_checksums_that_are_accepted(site: Site) -> None:
    site.facts = {"job_id": 42, "stdout_path": "/home/alice/o", "stderr_path": "/home/alice/e"}
    assert site.publish()["ok"] is True
    site.assert_complete()
    assert site.sha256sum().stdout == "job_summary.txt: OK\n"
    assert sorted(os.listdir(site.folder)) == [
        "checksums.txt",
        "job_summary.json",
        "job_summary.txt",
        "outputs",
    ]


def test_names_of_every_kind_are_kept_and_accepted_by_sha256sum(site: Site) -> None:
    for name in HOSTILE_NAMES:
        site.write(b"outputs/" + name, name)
        if len(name) < 200:
            site.write(b"outputs/folder " + name + b"/" + name, name)
    site.publish()
    site.assert_complete()
    assert fingerprint(site.folder / "outputs") == fingerprint(site.outputs)
    assert site.sha256sum().stdout.count(": OK\n") == 3 + 2 * len(HOSTILE_NAMES) - 1


def test_links_pipes_sockets_and_devices_are_named_and_left_out(
    site: Site, only_as_root: None
) -> None:
    site.write("outputs/real.txt")
    (site.outputs / "shadow").symlink_to("/etc/shadow")
    (site.outputs / "folder-link").symlink_to("/etc")
    (site.outputs / "dangling").symlink_to("nowhere")
    os.mkfifo(site.outputs / "pipe")
    os.mknod(site.outputs / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(site.outputs / "socket"))
    site.own(site.out)
    assert site.publish()["skipped"] == 6
    site.assert_complete()
    assert os.listdir(site.folder / "outputs") == ["real.txt"]
    assert skipped(site) == {
        "outputs/shadow": "symlink",
        "outputs/folder-link": "symlink",
        "outputs/dangling": "symlink",
        "outputs/pipe": "fifo",
        "outputs/null": "device",
        "outputs/socket": "socket",
    }
    text = (site.folder / "job_summary.txt").read_text()
    assert "outputs/shadow: a symbolic link; links are not followed" in text
    assert "outputs/shadow: 심볼릭 링크입니다" in text


def test_a_file_of_another_user_that_cannot_be_read_is_named_and_left_out(
    site: Site, only_as_root: None
) -> None:
    secret = site.write("outputs/secret", b"root only")
    os.chown(secret, STRANGER, STRANGER)
    secret.chmod(0o600)
    site.publish()
    site.assert_complete()
    assert skipped(site) == {"outputs/secret": "unreadable"}


def test_files_and_folders_that_the_job_made_unreadable_are_rescued_and_noted(site: Site) -> None:
    site.write("outputs/closed.txt", b"kept").chmod(0)
    site.write("outputs/closed/inside.txt", b"kept too")
    (site.outputs / "closed").chmod(0)
    site.publish()
    site.assert_complete()
    assert (site.folder / "outputs/closed.txt").read_bytes() == b"kept"
    assert (site.folder / "outputs/closed/inside.txt").read_bytes() == b"kept too"
    notes = {entry["path"]: entry["kind"] for entry in summary_of(site)["notes"]}
    assert notes == {"outputs/closed.txt": "made_readable", "outputs/closed": "made_readable"}


def test_permissions_and_times_are_kept_and_setuid_is_not(site: Site) -> None:
    wanted = {"run.sh": 0o755, "plain": 0o644, "private": 0o600, "s": 0o6755}
    for name in wanted:
        path = site.write(f"outputs/{name}")
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    for name, mode in wanted.items():
        (site.outputs / name).chmod(mode)
    site.write("outputs/folder/file")
    (site.outputs / "folder").chmod(0o555)
    os.utime(site.outputs / "folder", ns=(1, 1_000_000_000_000_000_000))
    site.publish()
    modes = {p.name: p.stat().st_mode & 0o7777 for p in (site.folder / "outputs").iterdir()}
    assert modes == wanted | {"s": 0o755, "folder": 0o555}
    assert (site.folder / "outputs/plain").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (site.folder / "outputs/folder").stat().st_mtime_ns == 1_000_000_000_000_000_000


def test_a_read_only_folder_can_be_published_again_after_a_crash(site: Site) -> None:
    site.write("outputs/folder/file")
    (site.outputs / "folder").chmod(0o555)
    site.publish()
    (site.folder / "job_summary.json").unlink()
    assert site.publish(folder="42")["already"] is False
    site.assert_complete()
    (site.folder / "outputs/folder").chmod(0o755)


def test_ten_thousand_files_are_published(site: Site) -> None:
    for number in range(10_000):
        path = site.outputs / f"{number % 10}" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
    site.own(site.out)
    assert site.publish()["files"] == 10_000
    site.assert_complete()


def test_folders_nested_too_deeply_are_named_and_the_rest_is_published(site: Site) -> None:
    descriptor = os.open(site.outputs, os.O_RDONLY)
    for level in range(600):
        name = f"level {level}"
        os.mkdir(name, dir_fd=descriptor)
        os.close(os.open(f"f{level}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptor))
        if os.geteuid() == 0:
            os.chown(name, UID, UID, dir_fd=descriptor)
            os.chown(f"f{level}", UID, UID, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert site.publish()["ok"] is True
    site.assert_complete()
    assert list(skipped(site).values()) == ["too_deep"]
    assert summary_of(site)["outputs"]["files"] == tree.MAX_DEPTH + 1


def test_more_remarks_than_are_kept_are_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remark, "KEPT", 3)
    for number in range(5):
        (site.outputs / f"link{number}").symlink_to("x")
    site.own(site.out)
    assert site.publish()["skipped"] == 5
    assert summary_of(site)["skipped_count"] == 5
    assert len(summary_of(site)["skipped"]) == 3
    assert "… and 2 more" in (site.folder / "job_summary.txt").read_text()


def test_a_large_sparse_file_stays_sparse_and_needs_little_memory(site: Site) -> None:
    path = site.outputs / "sparse"
    with path.open("wb") as file:
        file.write(b"head")
        file.seek(128 << 20)
        file.write(b"tail")
    site.own(site.out)

    def act() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert publish.main(site.plan())["ok"]
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    grown_kib = run_as(UID, act)
    assert grown_kib < 16 * 1024
    published = (site.folder / "outputs/sparse").stat()
    assert published.st_size == path.stat().st_size
    assert published.st_blocks * 512 < 8 << 20
    site.assert_complete()


def test_a_huge_file_of_holes_is_named_and_left_out(site: Site) -> None:
    path = site.write("outputs/16T", b"")
    try:
        os.truncate(path, 2 << 40)
    except OSError as error:
        pytest.skip(f"this file system has no 2 TiB files: {error}")
    site.publish()
    assert skipped(site) == {"outputs/16T": "too_sparse"}


def test_a_mirrored_log_is_completed_and_not_copied_anew(site: Site) -> None:
    site.write("stdout.log", b"one\n")
    site.mirror()
    inode = (site.folder / "stdout.log").stat().st_ino
    site.write("stdout.log", b"one\ntwo\n")
    site.publish(folder="42")
    site.assert_complete()
    assert (site.folder / "stdout.log").read_bytes() == b"one\ntwo\n"
    assert (site.folder / "stdout.log").stat().st_ino == inode


def test_a_mirrored_log_that_differs_in_the_middle_is_replaced(site: Site) -> None:
    size = 20_000
    site.write("stdout.log", b"A" * size + b"end")
    site.mirror()
    site.write("stdout.log", b"A" * 100 + b"B" + b"A" * (size - 101) + b"end")
    site.publish()
    site.assert_complete()
    assert fingerprint(site.folder)[b"stdout.log"] == fingerprint(site.out)[b"stdout.log"]


def test_a_log_that_the_job_replaced_by_a_link_keeps_what_was_mirrored(site: Site) -> None:
    site.write("stdout.log", b"mirrored\n")
    site.mirror()
    (site.out / "stdout.log").unlink()
    (site.out / "stdout.log").symlink_to("/etc/passwd")
    site.own(site.out)
    site.publish()
    site.assert_complete()
    assert (site.folder / "stdout.log").read_bytes() == b"mirrored\n"
    assert skipped(site) == {"stdout.log": "symlink"}


def test_a_log_whose_place_is_taken_by_a_folder_is_named(site: Site) -> None:
    site.write("stdout.log", b"text")
    site.mirror()
    (site.folder / "stdout.log").unlink()
    (site.folder / "stdout.log").mkdir()
    site.own(site.folder)
    site.publish()
    assert skipped(site) == {"stdout.log": "in_the_way"}
    assert summary_of(site)["stdout"] is None
    assert site.sha256sum().returncode == 0


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_outputs_that_is_a_link_or_a_pipe_is_named_and_the_folder_is_empty(
    site: Site, kind: str
) -> None:
    site.outputs.rmdir()
    if kind == "symlink":
        site.outputs.symlink_to("/etc")
    else:
        os.mkfifo(site.outputs)
    site.own(site.out)
    site.publish()
    site.assert_complete()
    assert skipped(site) == {"outputs": kind}
    assert os.listdir(site.folder / "outputs") == []


def test_what_the_user_put_in_the_way_is_not_followed_or_removed(site: Site) -> None:
    site.write("outputs/file", b"published")
    site.write("outputs/folder/file", b"published")
    trap = site.root / "trap"
    trap.mkdir()
    site.own(trap)
    site.mirror()

    def plant() -> None:
        os.mkdir(site.folder / "outputs")
        os.mkdir(site.folder / "outputs/file")
        os.symlink(trap, site.folder / "outputs/folder")

    run_as(UID, plant)
    assert site.publish()["ok"] is True
    assert skipped(site) == {"outputs/file": "in_the_way", "outputs/folder": "in_the_way"}
    assert os.listdir(trap) == []


def test_a_file_that_changes_while_it_is_copied_is_published_as_of_one_moment(site: Site) -> None:
    path = site.write("outputs/busy", b"a" * 3_000_000)
    copy = transfer._copy

    def busy_copy(*arguments: Any) -> Any:
        copied = copy(*arguments)
        with path.open("ab") as file:
            file.write(b"more")
        return copied

    def act() -> Any:
        transfer._copy = busy_copy  # type: ignore[assignment]
        return publish.main(site.plan())

    assert run_as(UID, act)["ok"] is True
    site.assert_complete()
    assert [entry["kind"] for entry in summary_of(site)["notes"]] == ["changed"]


def test_a_nas_that_gives_back_other_bytes_is_not_believed(site: Site) -> None:
    site.write("outputs/file", b"content")

    def act() -> Any:
        write_at = transfer.write_at
        transfer.write_at = lambda fd, chunk, offset: write_at(fd, b"X" + chunk[1:], offset)
        return publish.main(site.plan())

    answer = run_as(UID, act)
    assert answer["ok"] is False
    assert answer["retry"] is True
    assert answer["reason"].startswith(f"{site.folder}: a file read back from the NAS differed")
    assert not (site.folder / "outputs/file").exists()
    assert not (site.folder / "job_summary.json").exists()
    assert site.publish()["ok"] is True
    site.assert_complete()


def test_a_file_published_by_an_earlier_try_is_not_copied_again(site: Site) -> None:
    site.write("outputs/file", b"content")
    site.publish()
    inode = (site.folder / "outputs/file").stat().st_ino
    (site.folder / "job_summary.json").unlink()
    assert site.publish(folder="42")["already"] is False
    assert (site.folder / "outputs/file").stat().st_ino == inode
    site.assert_complete()


def test_publishing_complete_results_again_changes_nothing(site: Site) -> None:
    site.write("stdout.log", b"text")
    site.publish()
    before = (site.folder / "job_summary.json").stat().st_mtime_ns
    assert site.publish() == {"ok": True, "folder": "42", "already": True}
    assert (site.folder / "job_summary.json").stat().st_mtime_ns == before


# --- crashes and failures at every step ---

STEPS = (
    "open", "mkdir", "rename", "fsync", "fchmod", "ftruncate", "utime", "pwrite", "unlink", "write",
)  # fmt: skip


def sabotaged(site: Site, step: int, strike: Callable[[], None]) -> Any:
    """Publish as the job's user; before the `step`-th call that changes the NAS, `strike`."""

    def act() -> Any:
        count = 0

        def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
            def counting(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    strike()
                return call(*arguments, **options)

            return counting

        for name in STEPS:
            setattr(os, name, wrap(getattr(os, name)))
        return publish.main(site.plan())

    return run_as(UID, act)


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def assert_nothing_half(site: Site) -> None:
    """Every name in outputs/ is a whole file, and a summary means that all is there."""
    wanted = fingerprint(site.outputs)
    for path, digest in fingerprint(site.folder / "outputs").items():
        assert wanted[path] == digest
    if (site.folder / "job_summary.json").exists() and not skipped(site):
        assert fingerprint(site.folder / "outputs") == wanted
        assert site.sha256sum().returncode == 0


@pytest.mark.parametrize("strike", [fail, lambda: os._exit(9)], ids=["EIO", "crash"])
def test_a_failure_or_crash_at_any_step_is_made_good_by_the_next_try(
    site: Site, strike: Callable[[], None]
) -> None:
    site.write("stdout.log", b"text\n" * 1000)
    site.write("outputs/a", b"a" * 2_500_000)
    site.write("outputs/folder/b", b"b")
    site.write("outputs/folder/empty", b"")
    answers = []
    for step in range(1, 1000):
        answer = sabotaged(site, step, strike)
        assert_nothing_half(site)
        if answer != "died 9" and answer["ok"] and not answer["skipped"]:
            assert step > 60, "the sabotage did not reach the steps"
            break
        answers.append(answer)
        assert site.publish()["ok"] is True
        site.assert_complete()
        subprocess.run(["rm", "-rf", str(site.folder)], check=True)
    else:
        pytest.fail("never got through")
    # EIO of the job's own file is a remark.
    refused = [answer for answer in answers if answer == "died 9" or not answer["ok"]]
    assert len(refused) > 30
    if strike is fail:
        assert all("input/output error (EIO)" in answer["reason"] for answer in refused)


def test_tries_that_each_get_one_step_further_come_to_an_end(site: Site) -> None:
    site.write("stdout.log", b"text\n")
    for number in range(5):
        site.write(f"outputs/{number}", b"%d" % number * 1000)
    for step in range(1, 1000):
        answer = sabotaged(site, step, lambda: os._exit(9))
        assert_nothing_half(site)
        if answer != "died 9":
            break
    assert answer["ok"] is True
    site.assert_complete()


# --- a NAS that does not do its part: the reason in words, and another try ---


def test_a_missing_nas_is_told_and_tried_again(site: Site) -> None:
    site.results.rmdir()
    answer = site.publish(folder="42")
    assert answer == {
        "ok": False,
        "retry": True,
        "folder": "42",
        "reason": f"{site.results}/42: it does not exist; is the NAS mounted? (ENOENT)",
    }


def test_a_results_folder_closed_to_the_user_is_told(site: Site, only_as_root: None) -> None:
    site.results.chmod(0o755)
    answer = site.publish()
    assert (answer["ok"], answer["retry"]) == (False, True)
    assert answer["reason"] == f"{site.results}: the user may not write there (EACCES)"
    site.results.chmod(0o1777)
    assert site.publish()["ok"] is True


def test_a_full_nas_is_told_and_the_next_try_completes(site: Site, only_as_root: None) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "tmpfs", str(site.results)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount a small file system here")
    try:
        site.write("outputs/small", b"s" * 1000)
        site.write("outputs/tall", os.urandom(2 << 20))
        answer = site.publish()
        assert (answer["ok"], answer["retry"], answer["folder"]) == (False, True, "42")
        assert answer["reason"] == f"{site.folder}: the NAS is full (ENOSPC)"
        assert not (site.folder / "outputs/tall").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", str(site.results)], check=True)
        assert site.publish(folder="42")["ok"] is True
        site.assert_complete()
    finally:
        subprocess.run(["umount", "-l", str(site.results)], check=True)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ESTALE, "went away"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.ETIMEDOUT, "does not answer"),
        (errno.ENOTCONN, "not connected"),
        (errno.ENXIO, "no such device or address"),
    ],
)
def test_each_trouble_has_its_reason_in_words(site: Site, number: int, words: str) -> None:
    def strike() -> None:
        raise OSError(number, os.strerror(number))

    site.write("outputs/file")
    answer = sabotaged(site, 30, strike)
    assert (answer["ok"], answer["retry"]) == (False, True)
    assert words in answer["reason"]
    assert f"({errno.errorcode[number]})" in answer["reason"]


def test_a_local_folder_that_is_gone_is_not_tried_again(site: Site) -> None:
    answer = site.publish(out=str(site.root / "nowhere"))
    assert (answer["ok"], answer["retry"]) == (False, False)
    assert str(site.root / "nowhere") in answer["reason"]


def test_a_job_cannot_stop_its_publication_by_closing_its_local_folder(site: Site) -> None:
    site.write("outputs/file", b"content")
    site.out.chmod(0)
    assert site.publish()["ok"] is True
    site.assert_complete()
    assert summary_of(site)["outputs"]["files"] == 1


def test_a_nas_that_cannot_sync_folders_is_good_enough(site: Site) -> None:
    site.write("outputs/file", b"content")

    def act() -> Any:
        fsync = os.fsync

        def picky(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            fsync(descriptor)

        os.fsync = picky
        return publish.main(site.plan())

    assert run_as(UID, act)["ok"] is True
    site.assert_complete()


def test_a_node_that_is_short_of_something_loses_no_file(site: Site) -> None:
    site.write("outputs/file", b"content")

    def act() -> Any:
        last = max(map(int, os.listdir("/proc/self/fd")))
        while (filler := os.dup(0)) < last:
            pass  # numbers below that the tests before have left free
        resource.setrlimit(resource.RLIMIT_NOFILE, (filler + 6, 4096))
        return publish.main(site.plan())

    answer = run_as(UID, act)
    assert (answer["ok"], answer["retry"]) == (False, True)
    assert "no file descriptors left (EMFILE)" in answer["reason"]
    assert site.publish()["skipped"] == 0
    site.assert_complete()


def test_a_name_that_the_nas_refuses_is_named_and_left_out(site: Site) -> None:
    site.write("outputs/good")
    site.write("outputs/bad")

    def act() -> Any:
        rename = os.rename

        def picky(source: str, target: str, **options: Any) -> None:
            if target == "bad":
                raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ))
            rename(source, target, **options)

        os.rename = picky
        return publish.main(site.plan())

    assert run_as(UID, act)["ok"] is True
    assert skipped(site) == {"outputs/bad": "name_refused"}
    site.assert_complete()


def test_a_file_larger_than_the_nas_allows_is_named_and_left_out(site: Site) -> None:
    site.write("outputs/tall", b"t" * 2_000_000)
    site.write("outputs/short", b"s")

    def act() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        return publish.main(site.plan())

    assert run_as(UID, act)["ok"] is True
    assert skipped(site) == {"outputs/tall": "too_large"}
    site.assert_complete()


def test_importing_the_package_needs_the_standard_library_only() -> None:
    program = (
        "import sys; import bridge.results.publish, bridge.results.mirror;"
        "print([m for m in sys.modules if m.split('.')[0] in ('structlog','click','kubernetes')])"
    )
    root = Path(publish.__file__).parents[2]
    done = subprocess.run(
        [
            "/usr/bin/python3",
            "-IS",
            "-c",
            f"import sys; sys.path.insert(0, {str(root)!r}); {program}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
