"""job_submit.lua in bare Lua: what the one real slurmctld of the tests cannot show.

That is Lua 5.4, the field `extra` of Slurm 23.02, and thousands of scripts. The rest is in
tests/integration/test_job_submit.py.
"""

import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bridge.request import SandboxRequest, find
from validator import directives, header
from validator.limits import Limits

JOB_SUBMIT = Path(__file__).resolve().parents[3] / "slurm-conf" / "job_submit.lua"
SLURMCTLD = Path(__file__).with_name("slurmctld.lua")


@dataclass(frozen=True)
class Job:
    """What job_submit.lua may read and set; None is Lua's nil."""

    script: str | None = None
    comment: str | None = None
    extra: str | None = None
    part: int = field(default=0xFFFFFFFE, compare=False)  # Slurm's NO_VAL
    uid: int = field(default=1000, compare=False)


@dataclass(frozen=True)
class Answer:
    """What became of a job."""

    code: int
    said: str
    logged: str
    job: Job


def packed(text: str | None) -> bytes:
    if text is None:
        return b"-,"
    data = text.encode("utf-8", "surrogateescape")
    return b"%d:%s," % (len(data), data)


def unpacked(data: bytes) -> Iterator[str | None]:
    position = 0
    while position < len(data):
        if data.startswith(b"-,", position):
            yield None
            position += 2
            continue
        colon = data.index(b":", position)
        end = colon + 1 + int(data[position:colon])
        yield data[colon + 1 : end].decode("utf-8", "surrogateescape")
        position = end + 1


@pytest.fixture(params=["lua5.1", "lua5.4"])
def lua(request) -> str:
    """The oldest and the newest Lua that Slurm is built with."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def answers(lua, tmp_path) -> Callable[..., list[Answer]]:
    """Hand jobs to job_submit.lua, as installed for the Slurm that has this request field."""

    def ask(
        jobs: Iterable[Job], request_field: str = "comment", call: str = "submit", old: str = ""
    ):
        path = tmp_path / "job_submit.lua"
        setting = 'local REQUEST_FIELD = "comment"\n'
        assert setting in JOB_SUBMIT.read_text()
        path.write_text(
            JOB_SUBMIT.read_text().replace(setting, setting.replace("comment", request_field))
        )
        data = b"".join(
            packed(call)
            + packed(job.script)
            + packed(job.comment)
            + packed(job.extra)
            + packed(str(job.part))
            + packed(str(job.uid))
            + packed(old)
            for job in jobs
        )
        ended = subprocess.run([lua, SLURMCTLD, path], input=data, capture_output=True, check=True)
        texts = list(unpacked(ended.stdout))
        rows = [texts[at : at + 6] for at in range(0, len(texts), 6)]
        return [Answer(int(row[0]), row[1], row[2], Job(*row[3:])) for row in rows]

    return ask


# --- Slurm from 23.02 on: the request travels in `extra` --------------------------------------

SANDBOXED = "#!/bin/bash -l\n#K8S_IMAGE=alpine\n:\n"
REWRITTEN = "#!/opt/sbridge/bin/sbridge-run /bin/bash -l\n#K8S_IMAGE=alpine\n:\n"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (Job(SANDBOXED), Job(REWRITTEN, None, "sbridge1?image=alpine")),
        (Job(SANDBOXED, "mine"), Job(REWRITTEN, "mine", "sbridge1?image=alpine")),
        (Job(SANDBOXED, None, "{a: 1}"), Job(REWRITTEN, None, "{a: 1} sbridge1?image=alpine")),
        (
            Job(SANDBOXED, "mine sbridge1?tag=4f"),
            Job(REWRITTEN, "mine sbridge1?tag=4f", "sbridge1?tag=4f&image=alpine"),
        ),
        (
            Job(SANDBOXED, "sbridge1?tag=4f&image=a", "sbridge1?image=b"),
            Job(REWRITTEN, "sbridge1?tag=4f&image=a", "sbridge1?image=b&tag=4f"),
        ),
        (Job("#!/bin/sh\n:\n", "mine", "x"), Job("#!/bin/sh\n:\n", "mine", "x")),
        (Job(None, "sbridge1?image=a"), Job(None, "sbridge1?image=a")),
    ],
)
def test_the_request_travels_in_extra_where_hooks_can_read_it(answers, given, wanted):
    (answer,) = answers([given], "extra")
    assert answer == Answer(0, "", "", wanted)


def test_every_part_of_a_heterogeneous_job_gets_what_the_first_asked_for(answers):
    dropped = Job(SANDBOXED, "sbridge1?tag=4f&file=a.sh", part=0)
    jobs = [dropped, Job(comment="mine", part=1), Job(part=2), Job(comment="mine")]
    told = [answer.job.comment for answer in answers(jobs)]
    assert told[1:] == ["mine sbridge1?image=alpine", "sbridge1?image=alpine", "mine"]
    assert "tag=4f" in told[0]


def test_a_part_with_the_watchers_word_gets_the_rest_and_is_no_submission(answers):
    """sbatch gives every part the comment of its command line."""
    tagged = "sbridge1?tag=4f&file=a.sh"
    own = "mine sbridge1?image=b&tag=4f"
    jobs = [Job(SANDBOXED, tagged, part=0), Job(comment=tagged, part=1), Job(comment=own, part=2)]
    told = [answer.job.comment for answer in answers(jobs)]
    assert told == [f"{tagged}&image=alpine", "sbridge1?image=alpine", "mine sbridge1?image=b"]


def test_a_part_is_of_the_same_users_last_heterogeneous_job(answers):
    plain = Job("#!/bin/sh\ntrue\n", part=0)
    jobs = [Job(SANDBOXED, part=0), Job(part=1, uid=1001), Job(SANDBOXED), plain, Job(part=1)]
    assert [answer.job.comment for answer in answers(jobs)[1:]] == [
        *(None, "sbridge1?image=alpine", None, None)
    ]


def test_parts_without_any_script_get_nothing_of_the_job_before(answers):
    jobs = [Job(SANDBOXED, part=0), Job(part=1), Job(part=0), Job(part=1)]
    assert [answer.job.comment for answer in answers(jobs)[2:]] == [None, None]


def test_a_part_whose_own_comment_leaves_no_room_is_refused(answers):
    (_, answer) = answers([Job(SANDBOXED, part=0), Job(comment="x" * 1020, part=1)])
    assert answer.code == -1
    assert answer.said.startswith("part 1 of the job: the #K8S_ values take")


def test_a_changed_comment_keeps_the_tag_beside_extra(answers):
    (answer,) = answers([Job(None, "new")], "extra", "modify", "old sbridge1?tag=4f")
    assert answer.job == Job(None, "new sbridge1?tag=4f")


# --- The dropped file's name is the first to go when room is short -----------------------------


@pytest.mark.parametrize("field", ["comment", "extra"])
def test_a_files_name_gives_way_to_what_the_script_asks_for(answers, field):
    script = "#!/bin/bash\n#K8S_IMAGE=alpine\n#K8S_WORKDIR=/" + "x" * 800 + "\n:\n"
    kept = f"sbridge1?tag=4f&file={'y' * 100}"
    dropped = f"sbridge1?tag=4f&file={'y' * 200}"
    jobs = [Job(script, f"mine {word}") for word in (kept, dropped)]
    words = [getattr(answer.job, field) for answer in answers(jobs, field)]
    assert [find(word).file for word in words] == ["y" * 100, ""]
    assert all((find(word).tag, find(word).image) == ("4f", "alpine") for word in words)
    assert all(len(word) <= 1024 for word in words)


def test_a_files_name_gives_way_to_a_changed_comment(answers):
    old = f"old sbridge1?tag=4f&file={'y' * 200}"
    (answer,) = answers([Job(None, "x" * 900)], "comment", "modify", old)
    assert answer.job == Job(None, "x" * 900 + " sbridge1?tag=4f")


def test_what_has_no_room_even_without_a_files_name_is_refused(answers):
    script = "#!/bin/bash\n#K8S_WORKDIR=/" + "x" * 1020 + "\n:\n"
    (answer,) = answers([Job(script, f"sbridge1?tag=4f&file={'y' * 200}")])
    assert answer.code != 0
    assert f"take {1020 + len('sbridge1?tag=4f&workdir=%2F')} bytes" in answer.said


# --- The validator and job_submit.lua read the same lines alike --------------------------------

NAMES = "IMAGE WORKDIR SCRIPT RUNTIME IMGAE image PORT".split()
VALUES = [
    *(
        "alpine",
        "a:1",
        "nas-hub.local:5407/x/y:z@sha256:0a",
        "a//b",
        "a:",
        "http://a",
        "a b",
        '"a"',
    ),
    *(
        "/w",
        "/w x",
        "/%20&a=b",
        "/ü/한",
        "/caf\udce9",
        "/\x01",
        "/\x7f",
        "w",
        "~/w",
        "/" + "x" * 1024,
    ),
    *("podman", "host", "docker", "Podman", "", " ", "\t\v", " /w \r", "=", "=/w"),
]
JUNK = ["", " ", "#", "# x", "#SBATCH -n1", "\f#", "##K8S_IMAGE=a", " #K8S_IMAGE=a", "#K8S_", "#\v"]
ENDS = ["", "\v:", "\u00a0", "echo", " x", "\udcff"]


def random_script(dice: random.Random) -> str:
    def directive() -> str:
        equals = dice.choices(["=", " =", "", " ", "= "], [12, 1, 1, 1, 1])[0]
        return f"#K8S_{dice.choice(NAMES)}{equals}{dice.choice(VALUES)}"

    lines = [
        directive() if dice.random() < 0.6 else dice.choice(JUNK) for _ in range(dice.randint(0, 5))
    ]
    lines.insert(dice.randint(0, len(lines)), dice.choice(ENDS))
    return "#!/bin/bash\n" + "\n".join(lines) + dice.choice(["", "\n"])


def test_the_validator_and_lua_agree_on_random_headers(answers):
    dice = random.Random(20261122)
    scripts = [random_script(dice) for _ in range(5000)]
    refused = 0
    for script, answer in zip(scripts, answers(map(Job, scripts)), strict=True):
        wanted, _, findings = directives.read(header.read(script), Limits())
        faulty = sorted({found.line for found in findings if found.severity == "error"})
        assert answer.logged == ""
        if "together with" in answer.said:  # more than a comment holds: slurmctld's own limit
            continue
        told = [int(line) for line in re.findall(r"^line (\d+): ", answer.said, re.MULTILINE)]
        assert told == faulty, repr(script)
        refused += bool(faulty)
        if not faulty:
            request = find(answer.job.comment) or SandboxRequest()
            asked = (request.image, request.workdir, request.script, request.runtime)
            assert asked == (wanted.image, wanted.workdir, wanted.script, wanted.runtime)
    assert 1000 < refused < 4500
