"""Read Slurm's short way to write many node names."""

import itertools
import re
from collections.abc import Iterator

_MOST = 1 << 16  # names of one hostlist, as in Slurm (MAX_RANGE)
_PART = re.compile(r"(?:\[[^\[\]]*\]|[^,\[\]])+")


def expand_hostlist(text: str) -> list[str]:
    """Expand a hostlist such as `n[1-3,07],gpu1` as Slurm's hostlist(3) does.

    Raises ValueError for what is none.
    """
    parts = _PART.findall(text)
    if ",".join(parts) != re.sub(",+", ",", text).strip(","):
        raise ValueError(f"{text!r} has a bracket that is not closed or not opened")
    names = itertools.chain.from_iterable(map(_expand, parts))
    found = list(itertools.islice(names, _MOST + 1))
    if len(found) > _MOST:
        raise ValueError(f"{text!r} names more than {_MOST} nodes")
    return found


def _expand(part: str) -> Iterator[str]:
    fixed, *bracketed = part.split("[")
    choices = [[fixed]]
    for piece in bracketed:
        ranges, _, after = piece.partition("]")
        choices += [_numbers(ranges), [after]]
    return map("".join, itertools.product(*choices))


def _numbers(ranges: str) -> list[str]:
    numbers: list[str] = []
    for span in ranges.split(","):
        low, dash, high = span.partition("-")
        last = high if dash else low
        if not (low.isdecimal() and last.isdecimal() and int(low) <= int(last)):
            raise ValueError(f"[{ranges}] is no range of numbers such as [1-4,7]")
        if int(last) - int(low) >= _MOST:
            raise ValueError(f"[{ranges}] are more than {_MOST} nodes")
        numbers += [f"{number:0{len(low)}d}" for number in range(int(low), int(last) + 1)]
    return numbers
