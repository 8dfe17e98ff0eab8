"""The process that becomes the script, here in no other namespaces than the tests' own."""

import errno
import os
import resource
import signal
import socket

import pytest

from bridge import kernel, stand_in, wire
from bridge.agent.entry import Entry
from bridge.agent.heritage import Heritage
from bridge.agent.script_process import ScriptProcess

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can renounce for good")
TELL = "pwd; umask; echo $A; ulimit -n; grep -E 'CapBnd|NoNewPrivs' /proc/self/status; echo e >&2"


class Step:
    """One step of the process `caller`; pipes take the place of Slurm's files."""

    def __init__(
        self, body, *, uid, caller, directories=(b"/",), file=b"", shell=b"/bin/sh", ignored=()
    ):
        self._reads = {}
        files = []
        for number in (1, 2):
            self._reads[number], writer = os.pipe2(os.O_CLOEXEC)
            files.append((number, writer))
        trouble, self._trouble = os.pipe2(os.O_CLOEXEC)
        self._reads["trouble"] = trouble
        self._permission, self._permit = os.pipe2(os.O_CLOEXEC)
        self._ready, ready = os.pipe2(os.O_CLOEXEC)
        fields = [("uid", b"%d" % uid), ("env", b"A=b=c"), ("env", b"PATH=/usr/bin:/bin")]
        fields += [("arg", word) for word in (shell, b"-c", body.encode())]
        fields += [("cwd", directory) for directory in directories] + [("file", file)]
        here, self._there = socket.socketpair()
        self._connection = here
        self._caller = kernel.open_process(caller)
        fields += Heritage.of(caller, self._caller, ignored).orders()
        entry = Entry(wire.Message("enter", fields), here, self._caller, -1, None, files)
        self._ours = [writer for _, writer in files] + [self._trouble, self._permission, ready]
        self.process = ScriptProcess(entry, self._trouble, self._permission, self._permit, ready)

    def run(self):
        """Let the script run to its end; returns its wait status and what it wrote, by file."""
        pid = self.process.start()
        for descriptor in self._ours:
            os.close(descriptor)
        self._ours = []
        assert os.read(self._ready, 1) == b"!"
        os.write(self._permit, b"!")
        said = {}
        for number, descriptor in self._reads.items():
            with open(descriptor, "rb") as file:
                said[number] = file.read().decode()
        self._reads = {}
        return os.waitpid(pid, 0)[1], said

    def close(self):
        for descriptor in (*self._ours, *self._reads.values(), self._ready, self._permit):
            os.close(descriptor)
        os.close(self._caller)
        self._connection.close()
        self._there.close()


@pytest.fixture
def step():
    made = []

    def step(body="true", **options):
        options = {"uid": os.getuid(), "caller": os.getpid(), **options}
        made.append(Step(body, **options))
        return made[-1]

    yield step
    for one in made:
        one.close()


def test_a_caller_who_is_not_the_jobs_owner_starts_nothing(step):
    with pytest.raises(PermissionError, match="not the job's owner"):
        step(uid=os.getuid() + 1).process.start()


@needs_root
def test_the_script_has_the_callers_place_and_none_of_its_rights(step):
    status, said = step(TELL).run()
    assert status == 0
    *place, bounds, privileges = said[1].splitlines()
    umask = os.umask(0)
    os.umask(umask)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert place == ["/", f"{umask:04o}", "b=c", str(limit)]
    assert bounds == "CapBnd:\t0000000000000000"
    assert privileges == "NoNewPrivs:\t1"
    assert (said[2], said["trouble"]) == ("e\n", "")


@needs_root
def test_a_directory_that_is_not_there_is_told_and_the_next_one_taken(step):
    _, said = step("pwd", directories=(b"/no/such", b"/usr")).run()
    assert said[1] == "/usr\n"
    assert said["trouble"] == (
        "working directory /no/such: No such file or directory in the sandbox; using /usr\n"
    )


@needs_root
def test_the_script_ignores_what_its_caller_ignored_and_not_what_the_keeper_does(step):
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # this process is the caller, too
        made = step("kill -HUP $$; echo survived; kill -TERM $$; echo survived, too")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        status, said = made.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert said[1] == "survived\n"
    assert os.WTERMSIG(status) == signal.SIGTERM


LOOK = "exec grep -E '^Sig(Blk|Ign)' /proc/self/status"


def masks(said):
    """Return which signals are blocked and which ignored, as sets of numbers."""
    values = (int(line.split()[1], 16) for line in said[1].splitlines())
    return [{number for number in range(1, 65) if mask >> (number - 1) & 1} for mask in values]


@needs_root
@pytest.mark.parametrize(
    ("told", "ignored"),
    [
        ((), set()),
        ((b"13",), {signal.SIGPIPE}),
        ((b"15", b"x", b""), set()),  # only of this one it is told
    ],
)
def test_what_sbridge_run_ignores_is_ignored_only_if_it_was_before(step, told, ignored):
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN  # this process is the caller
    inherited = {
        number
        for number in signal.valid_signals() - {signal.SIGPIPE}
        if signal.getsignal(number) == signal.SIG_IGN  # SIGXFSZ here, others of nohup(1)
    }
    _, said = step(LOOK, ignored=told).run()
    assert masks(said) == [set(), ignored | inherited]


@needs_root
def test_the_script_has_its_callers_signals_blocked_and_no_others(step):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        made = step(LOOK)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})  # the keeper's own
        _, said = made.run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert masks(said)[0] == {signal.SIGTERM, signal.SIGUSR2}


@needs_root
def test_a_file_that_cannot_run_is_told_with_a_shells_exit_code(step):
    status, said = step(file=b"/no/such/file.py").run()
    assert os.waitstatus_to_exitcode(status) == 127
    assert "K8S_SCRIPT=/no/such/file.py: No such file" in said["trouble"]


@needs_root
def test_an_interpreter_that_may_not_be_executed_is_told_in_words(step):
    status, said = step(shell=b"/etc/passwd").run()
    assert os.waitstatus_to_exitcode(status) == errno.EACCES
    assert said["trouble"] == (
        "cannot start the job in its sandbox: /etc/passwd: Permission denied\n"
    )


SCRIPT = b"/spool/job00001/slurm_script"


def child(file=b"", argv=(b"/bin/sh", SCRIPT)):
    """Return a child that is about to become its script, and what it says."""
    made = object.__new__(ScriptProcess)
    made._argv = list(argv)
    made._file = file
    made._is_task = False
    made._environment = {b"PATH": b"/usr/bin"}
    said = []
    made._say = said.append
    return made, said


@pytest.fixture
def started(monkeypatch):
    """Collect what is executed, except what the kernel would not find or start."""
    argvs = []

    def execve(path, argv, environment):
        argvs.append(argv)
        if os.fork() == 0:
            try:
                real(path, argv, environment)
            except OSError as error:
                os._exit(error.errno)
        status = os.waitstatus_to_exitcode(os.wait()[1])
        if status:
            raise OSError(status, os.strerror(status))
        raise SystemExit

    real = os.execve
    monkeypatch.setattr(os, "execve", execve)
    return argvs


@pytest.mark.parametrize("name", ["bash", "env", "x"])
def test_a_program_without_its_loader_is_no_shell_that_the_image_lacks(
    tmp_path, started, program_without_loader, name
):
    file = tmp_path / name
    file.write_bytes(program_without_loader)
    file.chmod(0o755)
    made, said = child(os.fsencode(file), (b"/bin/sh", SCRIPT, b"bash"))
    with pytest.raises(stand_in.UnrunnableError, match="loader is missing") as caught:
        made._exec()
    assert caught.value.exit_code == 127
    assert started == [[os.fsencode(file), b"bash"]]
    assert said == []


def test_a_file_whose_interpreter_the_image_lacks_ends_like_in_a_shell(tmp_path, started):
    file = tmp_path / "x"
    file.write_bytes(b"#!/no/such/python\n")
    made, _ = child(os.fsencode(file))
    with pytest.raises(stand_in.UnrunnableError, match="the image has no /no/such") as caught:
        made._exec()
    assert caught.value.exit_code == 127


def test_a_file_whose_shell_the_image_lacks_runs_with_sh(tmp_path, started):
    file = tmp_path / "x"
    file.write_bytes(b"#!/no/such/bash\n")
    made, said = child(os.fsencode(file))
    with pytest.raises(SystemExit):
        made._exec()
    assert started[-1] == [b"/bin/sh", os.fsencode(file)]
    assert said == [b"the image has no /no/such/bash; using /bin/sh instead"]


def test_a_batch_script_keeps_the_kernels_own_word(started):
    made, _ = child(argv=(b"/no/such/python", SCRIPT))
    with pytest.raises(FileNotFoundError, match="the image has no /no/such/python"):
        made._exec()


def test_a_file_that_is_not_inside_is_said_to_be_looked_for_there(started):
    made, _ = child(b"/no/such/x.py")
    with pytest.raises(stand_in.UnrunnableError, match="inside an image"):
        made._exec()
