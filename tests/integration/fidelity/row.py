"""One row of the table: a script, how it is submitted, and what is done to it meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_MANY = 15  # tasks of an array, by their commas


@dataclass(frozen=True)
class Row:
    """A job file and its submission; `title` is a sentence.

    `body` follows the interpreter line and `header`, or is what `is_wrapped` by sbatch itself;
    `arguments` are the script's own. `files` are in the job's folder before, by name. A `parent`
    is submitted before, with a body and options, and may be named in the options as `{parent}`.
    `settings` are commands of the shell that submits it, such as `ulimit`.
    `before` are commands that root runs before any job; `{name}` is a word of this run alone.
    `shows` are texts that the native side must show: two sides that both miss the title's point
    are the same, too.
    `then` are pairs: once the job's streams hold the text, or the job is in the state `@STATE`
    (or `@ONE|ANOTHER`), the command is run as root, with the job's id for `{job}`; what it
    answers is compared, too. The lines of what is written `in_any_order` are sorted before they
    are compared. A `differs` reason, by proctrack ("cgroup", "linuxproc") or "*", says why the
    two sides cannot be the same there; the sandboxed one must show the texts of `instead` then.
    One that `is_heavy` is run when it is asked for only; one
    that `is_refused` makes no job, and every other one does.
    """

    title: str
    body: str
    options: tuple[str, ...] = ()
    header: str = ""
    interpreter: str = "/bin/bash"
    arguments: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    by_stdin: bool = False
    is_wrapped: bool = False
    parent: tuple[str, tuple[str, ...]] | None = None
    settings: str = ""
    before: tuple[tuple[str, ...], ...] = ()
    shows: tuple[str, ...] = ()
    then: tuple[tuple[str, tuple[str, ...]], ...] = ()
    in_any_order: bool = False
    differs: Mapping[str, str] = field(default_factory=dict)
    instead: tuple[str, ...] = ()
    is_heavy: bool = False
    is_refused: bool = False

    def __post_init__(self) -> None:
        if bool(self.differs) != bool(self.instead):
            raise ValueError(f"{self.title!r}: a difference is told by a reason and its outcome")

    @property
    def is_long(self) -> bool:
        """Whether it waits for a time limit, is an array of many tasks, or heavy."""
        words = f"{self.options} {self.body}"
        return self.is_heavy or "--time" in words or words.count(",") > _MANY

    @property
    def submitter(self) -> tuple[str, ...]:
        """What runs the command that submits it."""
        return ("bash", "-c", f'{self.settings}; exec "$@"', "sh") if self.settings else ()

    def why_different(self, proctrack: str) -> str:
        """Return the reason, empty where both sides must be the same."""
        return self.differs.get(proctrack) or self.differs.get("*", "")

    def script(self, directive: str) -> bytes:
        """Return the job file; `directive` is what makes it a sandboxed one."""
        text = f"#!{self.interpreter}\n{directive}{self.header}{self.body}"
        return text.encode("utf-8", "surrogateescape")
