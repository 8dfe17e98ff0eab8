import os
from pathlib import Path

from bridge.results import mirror

from .conftest import UID, Site, run_as


def test_logs_grow_on_the_nas_while_the_job_writes(site: Site) -> None:
    site.write("stdout.log", b"one\n")
    assert site.mirror() == {"ok": True, "folder": "42", "more": False}
    assert (site.folder / "stdout.log").read_bytes() == b"one\n"
    with (site.out / "stdout.log").open("ab") as log:
        log.write(b"two\n")
    site.mirror(folder="42")
    assert (site.folder / "stdout.log").read_bytes() == b"one\ntwo\n"
    assert not (site.folder / "job_summary.json").exists()


def test_a_pass_copies_a_bounded_number_of_bytes_and_says_that_there_is_more(site: Site) -> None:
    site.write("stdout.log", b"0123456789" * 10)
    assert site.mirror(max_bytes=64)["more"] is True
    assert (site.folder / "stdout.log").stat().st_size == 64
    assert site.mirror(max_bytes=64)["more"] is False
    assert (site.folder / "stdout.log").read_bytes() == b"0123456789" * 10


def test_a_truncated_log_is_begun_anew(site: Site) -> None:
    site.write("stdout.log", b"a long first text\n")
    site.mirror()
    site.write("stdout.log", b"short\n")
    site.mirror()
    assert (site.folder / "stdout.log").read_bytes() == b"short\n"


def test_a_log_rewritten_with_more_is_begun_anew(site: Site) -> None:
    site.write("stdout.log", b"first text\n")
    site.mirror()
    site.write("stdout.log", b"quite another and longer text\n")
    site.mirror()
    assert (site.folder / "stdout.log").read_bytes() == b"quite another and longer text\n"


def test_a_log_that_became_a_link_or_a_pipe_is_not_read(site: Site) -> None:
    secret = site.root / "secret"
    secret.write_bytes(b"secret")
    (site.out / "stdout.log").symlink_to(secret)
    os.mkfifo(site.out / "stderr.log")
    site.own(site.out)
    assert site.mirror()["ok"] is True
    assert sorted(os.listdir(site.folder)) == [".incomplete"]


def test_a_link_in_the_result_folder_is_not_written_through(site: Site) -> None:
    victim = site.root / "victim"
    victim.write_bytes(b"untouched")
    victim.chmod(0o666)
    site.write("stdout.log", b"data")
    site.mirror()

    def plant() -> None:
        os.unlink(site.folder / "stdout.log")
        os.symlink(victim, site.folder / "stdout.log")

    run_as(UID, plant)
    assert site.mirror()["ok"] is True
    assert victim.read_bytes() == b"untouched"


def test_missing_logs_are_no_error(site: Site) -> None:
    assert site.mirror() == {"ok": True, "folder": "42", "more": False}


def test_a_complete_folder_is_not_written_to_any_more(site: Site) -> None:
    site.write("stdout.log", b"one\n")
    site.publish()
    site.write("stdout.log", b"one\ntwo\n")
    assert site.mirror()["ok"] is True
    assert (site.folder / "stdout.log").read_bytes() == b"one\n"
    assert site.sha256sum().returncode == 0


def test_append_new_compares_only_the_last_bytes_that_both_have(tmp_path: Path) -> None:
    size = 100_000
    (tmp_path / "log").write_bytes(b"x" * size + b"new")
    (tmp_path / "copy").write_bytes(b"x" * size)
    log = os.open(tmp_path / "log", os.O_RDONLY)
    copy = os.open(tmp_path / "copy", os.O_RDWR)
    try:
        assert mirror.append_new(log, copy, 2) is True
        assert os.fstat(copy).st_size == size + 2
    finally:
        os.close(log)
        os.close(copy)


def test_a_log_that_the_job_keeps_private_is_private_on_the_nas_from_the_first_byte(
    site: Site,
) -> None:
    site.write("stdout.log", b"private").chmod(0o600)
    site.mirror()
    assert (site.folder / "stdout.log").stat().st_mode & 0o777 == 0o600
    site.publish()
    assert (site.folder / "stdout.log").stat().st_mode & 0o777 == 0o600
