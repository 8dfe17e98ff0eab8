"""How Slurm's commands read their command lines: getopt_long(3), up to the first other word.

A table holds the options of all releases, so an abbreviation that several options fit is read
as one of them when they agree on whether a value follows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Option(NamedTuple):
    """One option as it stands in words[start:end], perhaps together with others (`-la`).

    `given` is what the user wrote, without dashes and value; `name` the long name, "" for an
    unknown option. `value` is None when none was given.
    """

    name: str
    given: str
    value: str | None
    start: int
    end: int


@dataclass(frozen=True)
class Table:
    """A command's options: long name → "none", "optional" or "required", letter → long name.

    `reads_on` says what becomes of a word behind an unknown option that does not begin with a
    dash: True takes it for the option's value, False for the first word that is no option.
    """

    long: Mapping[str, str]
    short: Mapping[str, str]
    reads_on: bool = False

    def matches(self, given: str) -> list[str]:
        """Return the options that `given` names or, being the start of them, abbreviates."""
        if given in self.long:
            return [given]
        return [name for name in self.long if name.startswith(given)]

    def read(self, words: Sequence[str]) -> Iterator[Option]:
        """Yield the options in order; the words behind the last one's `end` are no options.

        A closing `--` is yielded as an option that is called so.
        """
        at = 0
        while at < len(words) and words[at].startswith("-") and words[at] != "-":
            found = self._long(words, at) if words[at].startswith("--") else self._short(words, at)
            yield from found
            at = found[-1].end
            if found[-1].name == "--":
                return

    def _long(self, words: Sequence[str], at: int) -> list[Option]:
        if words[at] == "--":
            return [Option("--", "", None, at, at + 1)]
        given, separator, value = words[at][2:].partition("=")
        matches = self.matches(given)
        kinds = {self.long[name] == "required" for name in matches}
        is_known = len(kinds) == 1
        name = matches[0] if len(matches) == 1 else ""
        if separator:
            return [Option(name, given, value, at, at + 1)]
        takes_next = kinds == {True} or (not is_known and self._reads_on_at(words, at + 1))
        if not takes_next:
            return [Option(name, given, None, at, at + 1)]
        return [Option(name, given, *_next(words, at))]

    def _reads_on_at(self, words: Sequence[str], at: int) -> bool:
        return self.reads_on and at < len(words) and not words[at].startswith("-")

    def _short(self, words: Sequence[str], at: int) -> list[Option]:
        found: list[Option] = []
        letters = words[at][1:]
        for index, letter in enumerate(letters):
            name = self.short.get(letter, "")
            kind = self.long.get(name, "none")
            rest = letters[index + 1 :]
            if kind == "required" and not rest:
                value, _, end = _next(words, at)
                return [*(o._replace(end=end) for o in found), Option(name, letter, value, at, end)]
            if kind != "none":
                return [*found, Option(name, letter, rest or None, at, at + 1)]
            found.append(Option(name, letter, None, at, at + 1))
        return found


def _next(words: Sequence[str], at: int) -> tuple[str | None, int, int]:
    """Return the word behind the option at `at` as its value, and which words both are."""
    if at + 1 < len(words):
        return words[at + 1], at, at + 2
    return None, at, at + 1
