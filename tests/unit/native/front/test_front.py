"""What stands before the scripts of Slurm's commands: which script it runs, and how."""

import ctypes
import os
import shutil
import signal
import subprocess

import pytest

from bridge.agent import shim

libc = ctypes.CDLL(None)
KEYS = (signal.SIGINT, signal.SIGQUIT)
SAY_ALL = 'printf \'[%s]\' "$0" "$@" "$MINE"'


@pytest.fixture(scope="module")
def scripts(built):
    folder = built.folder / "shim"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def as_installed(built):
    return built.as_installed("front")


@pytest.fixture(scope="module")
def sanitized(built, scripts):
    return built.sanitized("front-sanitized", "front", SCRIPTS=scripts)


@pytest.fixture(scope="module")
def installed(built, scripts):
    """Give the installed program, but for the folder of its scripts."""
    compiler = built.folder / "cc"
    compiler.write_text(f"""#!/bin/sh\nexec cc '-DSCRIPTS="{scripts}"' "$@"\n""")
    compiler.chmod(0o755)
    return built.as_installed("front", cc=compiler)


@pytest.fixture(params=["sanitized", "installed"])
def put(request, built, scripts, tmp_path):
    """Write a command's script, and link the program to its name; returns the link."""
    program = request.getfixturevalue(request.param)

    def put(script, name="srun"):
        (scripts / name).write_text(script)
        path = tmp_path / name
        shutil.copy(program, path.with_name("program"))  # not in the compiler's folder
        os.link(path.with_name("program"), path)
        return path

    yield put
    assert built.findings() == []


def run(argv, **options):
    return subprocess.run(argv, capture_output=True, text=True, check=False, **options)


def ignoring_both():
    for number in KEYS:
        signal.signal(number, signal.SIG_IGN)


def test_the_script_has_the_programs_arguments_and_environment(put, scripts):
    argv = [put(SAY_ALL), "a  b", "", "$x", "new\nline"]
    ended = run(argv, env={"MINE": "yes"})
    assert ended.stdout == f"[{scripts}/srun][a  b][][$x][new\nline][yes]"
    assert (ended.returncode, ended.stderr) == (0, "")


def test_its_end_is_the_scripts(put):
    assert run([put("exit 7")]).returncode == 7
    assert run([put("kill -TERM $$", "squeue")]).returncode == -signal.SIGTERM


def test_its_name_is_not_the_callers_word(put):
    program = put("echo $0")
    ended = run(["/no/such/squeue", "x"], executable=program)
    assert ended.stdout.endswith("/shim/srun\n")


def test_it_needs_no_arguments_at_all(put):
    """Before Linux 5.18 not even its own name, after that an empty one."""
    program = os.fsencode(put("echo $# $0"))
    nothing = (ctypes.c_char_p * 1)(None)
    ended = run([program], preexec_fn=lambda: libc.execve(program, nothing, nothing))
    assert ended.stdout.startswith("0 /")


def test_links_of_any_name_lead_to_it(put, tmp_path):
    program = put("echo $0 $1")
    for place in ("bin/srun", "mine/my run"):
        link = tmp_path / place
        link.parent.mkdir()
        link.symlink_to(program)
        assert run([link, "x"]).stdout.endswith("/shim/srun x\n")


def test_it_serves_as_the_interpreter_of_a_script(put, tmp_path):
    script = tmp_path / "script"
    script.write_text(f"#!{put('echo $0 $1 $2')} bash\n")
    script.chmod(0o755)
    assert run([script]).stdout.endswith(f"/shim/srun bash {script}\n")


def test_it_keeps_its_name_while_the_agent_puts_a_newer_one_there(put):
    program = put("echo $0")
    file = os.open(program, os.O_RDONLY)
    newer = program.with_name("newer")
    newer.write_text("newer")
    newer.replace(program)
    ended = run(["srun"], preexec_fn=lambda: os.execve(file, ["srun"], os.environ))
    os.close(file)
    assert ended.stdout.endswith("/shim/srun\n")


@pytest.mark.parametrize("name", ["srun", "sattach"])
@pytest.mark.parametrize("number", KEYS)
def test_keys_that_were_ignored_can_be_caught(put, name, number):
    key = number.name.removeprefix("SIG")
    program = put(f"trap 'echo caught' {key}; kill -{key} $$; echo end", name)
    assert run([program], preexec_fn=ignoring_both).stdout == "caught\nend\n"


@pytest.mark.parametrize("name", sorted({*shim.COMMANDS} - {"sattach", "srun"}))
def test_a_command_that_waits_for_no_keys_has_them_stay_ignored(put, name):
    program = put("kill -INT $$; kill -QUIT $$; echo end", name)
    assert run([program], preexec_fn=ignoring_both).stdout == "end\n"


@pytest.mark.parametrize("name", ["HUP", "TERM", "ALRM", "USR1", "USR2"])
def test_srun_hears_whatever_was_ignored_and_another_command_does_not(put, name):
    program = put(f"trap 'echo caught' {name}; kill -{name} $$; echo end")
    number = signal.Signals[f"SIG{name}"]
    ignoring = {"preexec_fn": lambda: signal.signal(number, signal.SIG_IGN)}
    assert run([program], **ignoring).stdout == "caught\nend\n"
    assert run([put(f"kill -{name} $$; echo end", "squeue")], **ignoring).stdout == "end\n"


PIPE = "SBRIDGE_IGNORES_PIPE"


def ignoring_pipe():
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def blocking_pipe():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})


@pytest.mark.parametrize(("before", "told"), [(ignoring_pipe, "1"), (blocking_pipe, "unset")])
def test_sigpipe_can_end_what_waits_and_the_node_hears_if_it_was_ignored(put, before, told):
    program = put(f"echo ${{{PIPE}-unset}}; kill -PIPE $$; echo alive")
    of_an_outer_one = {**os.environ, PIPE: "outer"}
    ended = run([program], preexec_fn=before, env=of_an_outer_one, restore_signals=False)
    assert (ended.stdout, ended.returncode) == (f"{told}\n", -signal.SIGPIPE)


def inside(image, program, name):
    """Execute the program in an image that holds it, and nothing else that a test has not put."""
    (image / "bin").mkdir(exist_ok=True)
    shutil.copy(program, image / "bin" / name)
    return lambda path: run([path], preexec_fn=lambda: (os.chroot(image), os.chdir("/")))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")
@pytest.mark.parametrize("name", ["srun", "squeue"])
def test_where_there_is_no_shell_it_says_so(as_installed, tmp_path, name):
    """There is no /proc either: the path that was executed counts."""
    execute = inside(tmp_path, as_installed, name)
    said = f"sbridge: {name} needs a /bin/sh inside, and this image has none\n"
    for path in (f"/bin/{name}", f"bin/{name}"):
        ended = execute(path)
        assert (ended.returncode, ended.stdout, ended.stderr) == (127, "", said)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")
def test_a_shell_that_cannot_be_started_is_no_missing_one(as_installed, tmp_path):
    execute = inside(tmp_path, as_installed, "srun")
    (tmp_path / "bin/sh").write_text("not executable")
    ended = execute("/bin/srun")
    said = "sbridge: srun: /bin/sh: Permission denied\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (126, "", said)


def test_the_installed_program_looks_where_the_agent_has_put_the_scripts(as_installed, tmp_path):
    program = tmp_path / "srun"
    shutil.copy(as_installed, program)
    assert f"{shim.SCRIPTS}/srun" in run([program]).stderr, "sbridge is outside of sandboxes?"


def test_it_needs_no_library_of_the_image(as_installed):
    content = as_installed.read_bytes()
    assert content.startswith(b"\x7fELF")
    assert b"/ld-linux" not in content
