"""Read the header of a job file as sbatch does: its lines, and the #SBATCH words in it.

The header is the lines from the top that are blank or whose first character that is not
blank is `#`. The words of all its #SBATCH lines form one argument list for each component
of a (heterogeneous) job. Follows `_opt_batch_script` and `get_argument` of Slurm 22.05's
sbatch, which newer releases kept, but for a backslash before a blank outside quotes. Files
are as large as users like: everything here takes linear time, and lines that nobody asks
about are not kept.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from validator.findings import Finding, error

BLANKS = " \t\n\v\f\r"
_MAGIC_WORDS = ("#SBATCH", "#SLURM")
_COMPONENT_WORDS = ("hetjob", "packjob")
_COMMAND = re.compile(r"(?:\A|\n)[ \t\v\f\r]*[^ \t\v\f\r\n#]")
_HEADER_LINE = re.compile(
    r"^[ \t]*#[#! \t]*(?:SBATCH|SLURM|K8S)[^\n]*", re.IGNORECASE | re.MULTILINE
)
_LATE_LINE = re.compile(r"^#(?:SBATCH|K8S_)[^\n]*", re.MULTILINE)
_BLANK = re.compile(r"[ \t\n\v\f\r]*")
_PLAIN = re.compile(r"[^ \t\n\v\f\r\\'\"#]+")
_MOST_LATE_LINES = 1000


class Line(NamedTuple):
    """A line without its line feed; `number` counts from 1."""

    number: int
    text: str


class Word(NamedTuple):
    """One word of an #SBATCH line, quotes and backslashes resolved."""

    text: str
    line: int


@dataclass(frozen=True)
class Header:
    """What stands in a file's header.

    `lines` are those that are, or look like, somebody's directives; `late_lines` the
    directives below the header; `components` the argument lists.
    """

    lines: tuple[Line, ...]
    late_lines: tuple[Line, ...]
    has_body: bool
    components: tuple[tuple[Word, ...], ...]
    findings: tuple[Finding, ...]


class _Fault(Exception):
    def __init__(self, code: str, **parameters: str) -> None:
        super().__init__(code)
        self.code = code
        self.parameters = parameters


def read(text: str) -> Header:
    """Read the header of the file that has this text."""
    command = _COMMAND.search(text)
    end = command.start() if command else len(text)
    lines = tuple(_lines(text, _HEADER_LINE.finditer(text, 0, end)))
    late = itertools.islice(_LATE_LINE.finditer(text, end), _MOST_LATE_LINES)
    components: list[list[Word]] = [[]]
    findings: list[Finding] = []
    for line in lines:
        magic = next((word for word in _MAGIC_WORDS if line.text.startswith(word)), None)
        if magic is None:
            continue
        try:
            _add(components, line.text[len(magic) :], line.number)
        except _Fault as fault:
            findings.append(error(fault.code, line.number, **fault.parameters))
    return Header(
        lines,
        tuple(_lines(text, late)),
        command is not None,
        tuple(map(tuple, components)),
        tuple(findings),
    )


def _lines(text: str, matches: Iterable[re.Match[str]]) -> Iterator[Line]:
    number, position = 1, 0
    for match in matches:
        number += text.count("\n", position, match.start())
        position = match.start()
        yield Line(number, match[0])


def _add(components: list[list[Word]], text: str, line: int) -> None:
    for position, word in enumerate(words(text)):
        if word.lower() in _COMPONENT_WORDS:
            # At the start of a line it begins a component; anywhere, it ends the line.
            if position == 0:
                components.append([])
            return
        components[-1].append(Word(word, line))


def words(text: str) -> Iterator[str]:
    """Split what follows the magic word into words.

    Raises `_Fault`, which `read` turns into a finding.
    """
    position = _skip_blanks(text, 0)
    while position < len(text) and text[position] != "#":
        if text[position] == ":":
            raise _Fault(
                "leading_colon", word=shown(text[position : position + 100].split(maxsplit=1)[0])
            )
        word, position = _word_at(text, position)
        if not word:  # sbatch takes an empty quoted word for the end of the line
            return
        yield word
        position = _skip_blanks(text, position)


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    assert match is not None
    return match.end()


def _word_at(text: str, start: int) -> tuple[str, int]:
    """Return the word that begins at `start`, and the position behind it."""
    parts: list[str] = []
    quote = ""
    position = start
    while position < len(text):
        plain = _PLAIN.match(text, position)
        if plain:
            parts.append(plain[0])
            position = plain.end()
            continue
        character = text[position]
        if not quote and character in BLANKS + "#":
            break
        position += 1
        if character == "\\":
            character = _escaped(text, position, quote)
            position += len(character)
        elif character == quote:
            quote = character = ""
        elif not quote and character in "'\"":
            quote, character = character, ""
        parts.append(character)
    if quote:
        raise _Fault("unmatched_quote", quote=quote)
    return "".join(parts), position


def _escaped(text: str, position: int, quote: str) -> str:
    """Return the character that a backslash protects; outside quotes a blank needs more."""
    character = text[position : position + 1]
    return "" if character in BLANKS and not quote else character


def shown(text: str) -> str:
    """Return foreign text as it may stand in a message: short, and printable."""
    short = text if len(text) <= 80 else text[:80] + "…"
    return "".join(character if character.isprintable() else "?" for character in short)
