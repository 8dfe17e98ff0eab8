"""Read Slurm's short way to write many node names."""

import re


def expand_hostlist(text: str) -> list[str]:
    """Expand a hostlist such as `n[1-3,07],gpu1` as Slurm's hostlist(3) does for one bracket."""
    names: list[str] = []
    for part in re.findall(r"[^,\[]+(?:\[[^\]]*\][^,\[]*)?", text):
        prefix, bracket, rest = part.partition("[")
        if not bracket:
            names.append(prefix)
            continue
        ranges, _, suffix = rest.partition("]")
        for span in ranges.split(","):
            low, dash, high = span.partition("-")
            last = high if dash else low
            numbers = range(int(low), int(last) + 1)
            names += [f"{prefix}{number:0{len(low)}d}{suffix}" for number in numbers]
    return names
