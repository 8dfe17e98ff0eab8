import os
import socket
from pathlib import Path

import pytest

from bridge import as_user
from validator.limits import Limits
from watcher.inspection import entry_finding, inspect

ME = as_user.find_user(os.getuid())
RESULTS = Path("/mnt/nas/results")


def look(path, limits=None, owner=ME):
    return inspect(path, owner, limits or Limits(), RESULTS)


def codes(path, **options):
    return [finding.code for finding in look(path, **options).findings]


@pytest.fixture
def drop(tmp_path):
    def make(content: bytes):
        path = tmp_path / "job.sh"
        path.write_bytes(content)
        return path

    return make


def test_a_good_file_is_acceptable_and_read_whole(drop):
    content = b"#!/bin/sh\necho\n"
    inspection = look(drop(content))
    assert (inspection.is_acceptable, inspection.content) == (True, content)
    assert len(inspection.digest) == 64


def test_a_link_is_not_followed(drop, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(drop(b"#!/bin/sh\n"))
    assert codes(link) == ["is_symlink"]
    assert look(link).content == b""


def test_a_file_with_two_names_is_refused(drop, tmp_path):
    path = drop(b"#!/bin/sh\n")
    os.link(path, tmp_path / "other")
    assert codes(path) == ["hard_linked"]


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert codes(tmp_path / "pipe") == ["is_special"]


def test_a_file_of_somebody_else_is_refused(drop):
    stranger = as_user.User("stranger", ME.uid + 1, 1, (), "/", "")
    assert codes(drop(b"#!/bin/sh\n"), owner=stranger) == ["owner_unknown"]


def test_a_file_that_is_too_large_is_not_read(drop):
    assert codes(drop(b"x" * 2049), limits=Limits(max_bytes=2048)) == ["too_large"]


def test_a_file_that_is_gone_is_no_finding(tmp_path):
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "gone")


def test_a_script_that_is_there_is_fine(drop, tmp_path):
    (tmp_path / "내 x.py").write_text("pass")
    assert codes(drop(f"#!/bin/sh\n#K8S_SCRIPT={tmp_path}/내 x.py\n".encode())) == []


def test_a_script_that_is_missing_or_a_folder_is_an_error_with_its_line(drop, tmp_path):
    (finding,) = look(drop(f"#!/bin/sh\n\n#K8S_SCRIPT={tmp_path}/x.py\n".encode())).findings
    assert (finding.code, finding.line) == ("script_missing", 3)
    assert codes(drop(f"#!/bin/sh\n#K8S_SCRIPT={tmp_path}\n".encode())) == ["script_not_a_file"]


def test_a_script_that_is_a_link_to_itself_is_told_as_such(drop, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    job = drop(f"#!/bin/sh\n#K8S_SCRIPT={tmp_path}/loop\n".encode())
    assert codes(job) == ["script_is_a_loop"]


def test_a_script_and_a_file_that_the_owner_may_not_read_are_errors(in_child, ordinary, open_dir):
    script, job = open_dir / "x.py", open_dir / "job.sh"
    script.write_text("pass")
    script.chmod(0)
    job.write_bytes(f"#!/bin/sh\n#K8S_SCRIPT={script}\n".encode())
    if os.geteuid() == 0:
        os.chown(job, ordinary.uid, ordinary.gid)

    def look_as_owner():
        as_user.become(ordinary.uid, ordinary.gid, ordinary.groups)
        found = codes(job, owner=ordinary)
        job.chmod(0)
        return [*found, *codes(job, owner=ordinary)]

    assert in_child(look_as_owner) == ["script_unreadable", "unreadable"]


def test_output_options_are_told_to_have_no_effect(drop):
    (finding,) = look(drop(b"#!/bin/sh\n#SBATCH -n 1\n#SBATCH -o x --error=y\nls\n")).findings
    assert (finding.code, finding.severity, finding.line) == ("output_redirected", "warning", 3)
    assert finding.parameters == {
        "options": "--output, --error",
        "results": "/mnt/nas/results/<JOB_ID>",
    }


def test_entries_are_told_apart(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    found = {path.name: entry_finding(path.lstat()) for path in tmp_path.iterdir()}
    assert {name: finding and finding.code for name, finding in found.items()} == {
        "file": None,
        "folder": "is_directory",
        "link": "is_symlink",
        "socket": "is_special",
    }
