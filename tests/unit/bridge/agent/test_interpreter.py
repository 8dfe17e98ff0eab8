"""Which program becomes the script's interpreter when the image lacks the one it names."""

import os

import pytest

from bridge.agent import interpreter

SCRIPT = b"/spool/slurm_script"


class Executed(BaseException):
    """Stands for the end of this process: nothing comes after an exec."""


@pytest.fixture
def execute(monkeypatch, tmp_path):
    """Try to become argv in an image with these programs; returns (what was executed, said)."""

    def execute(argv, *programs):
        said = []
        executed = []

        def execve(path, arguments, environment):
            if path not in programs:
                raise FileNotFoundError(2, "No such file or directory")
            executed.extend(arguments)
            raise Executed

        monkeypatch.setattr(os, "execve", execve)
        monkeypatch.setattr(os, "access", lambda path, mode: path in programs)
        with pytest.raises(Executed):
            interpreter.execute(argv, {b"PATH": b"/usr/bin:/bin"}, said.append)
        return executed, b"".join(said)

    return execute


@pytest.mark.parametrize(
    "argv",
    [
        [b"/bin/bash", SCRIPT, b"a b", b""],
        [b"/usr/bin/env", b"bash", SCRIPT],
        [b"/usr/bin/env", b"python3", b"-x", SCRIPT],
    ],
)
def test_an_interpreter_that_is_there_runs_as_it_is_named(execute, argv):
    assert execute(argv, argv[0], b"/bin/bash") == (argv, b"")


@pytest.mark.parametrize(
    ("argv", "instead", "named"),
    [
        ([b"/bin/bash", SCRIPT, b"x"], [SCRIPT, b"x"], b"/bin/bash"),
        ([b"/bin/bash", b"-e", SCRIPT], [b"-e", SCRIPT], b"/bin/bash"),
        ([b"/bin/bash", b"--login", SCRIPT], [SCRIPT], b"/bin/bash --login"),
        ([b"/usr/bin/env", b"bash", SCRIPT], [SCRIPT], b"/usr/bin/env bash"),
    ],
)
def test_a_shell_that_is_not_there_is_replaced_by_sh_and_that_is_said(
    execute, argv, instead, named
):
    ran, said = execute(argv, b"/bin/sh", b"/usr/bin/env")
    assert ran == [b"/bin/sh", *instead]
    assert said == b"the image has no %s; using /bin/sh instead" % named


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"/usr/bin/python3", "the image has no /usr/bin/python3; name an image with it"),
        (b"/bin/bash", "the image has no /bin/bash and no /bin/sh; name an image with it"),
        (b"/bin/sh", "the image has no /bin/sh; name an image with it"),
    ],
)
def test_what_nothing_can_stand_in_for_is_named(monkeypatch, program, words):
    def execve(*_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(OSError, match=words) as raised:
        interpreter.execute([program, SCRIPT], {}, lambda text: None)
    assert raised.value.errno == 2


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (b"/bin/x", b"/bin/x"),
        (b"./x", b"%(here)s/./x"),
        (b"x", b"%(here)s/bin/x"),
        (b"below/x", b"%(here)s/bin/below/x"),
        (b"only-here", b"only-here"),
        (b"folder", b"folder"),
    ],
)
def test_a_tasks_program_is_called_by_where_slurmstepd_finds_it(
    monkeypatch, tmp_path, named, found
):
    executed = []

    def execve(path, argv, environment):
        executed.append((path, argv))
        raise Executed

    (tmp_path / "bin/below").mkdir(parents=True)
    (tmp_path / "bin/folder").mkdir()
    for name in ("x", "only-here", "bin/x", "bin/below/x"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", execve)
    here = {b"here": os.fsencode(tmp_path)}
    path = b":/none:%(here)s/bin" % here
    with pytest.raises(Executed):
        interpreter.execute_task([named, b"a"], {b"PATH": path})
    assert executed == [(found % here, [found % here, b"a"])]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"#!/no/such\n", "bad interpreter(/no/such)"),
        (b"#! /no/such\r\nx\n", "bad interpreter( /no/such\r)"),
        (b"#!/no/" + b"x" * 300, f"bad interpreter(/no/{'x' * 249})"),
        (b"x", "%s"),
    ],
)
def test_a_task_whose_interpreter_is_missing_names_that(monkeypatch, tmp_path, content, words):
    def execve(path, argv, environment):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "execve", execve)
    program = tmp_path / "program"
    program.write_bytes(content)
    with pytest.raises(interpreter.TaskError) as raised:
        interpreter.execute_task([os.fsencode(program)], {})
    what = words.replace("%s", str(program))
    assert str(raised.value) == f"execve(): {what}: No such file or directory"
    assert raised.value.exit_code == 2
