"""What a process can tell of itself and its node, by name: the same natively and in a sandbox."""

import re

SHOWN = {
    "soft limits": "ulimit -Sa | grep -v pipe",
    "hard limits": "ulimit -Ha | grep -v pipe",
    "umask": "umask",
    "nice": "nice",
    "memory to be freed first": "cat /proc/self/oom_score_adj",
    "CPUs and memory": "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status",
    "signals": "grep -E '^S(ig|hd)(Ign|Blk|Pnd|Cgt)' /proc/self/status",
    "rights": "grep -E '^(Cap(Inh|Prm|Eff|Amb)|Seccomp|Spec|THP)' /proc/self/status",
    "policies": "cut -d' ' -f40,41 /proc/self/stat; head -n1 /proc/self/numa_maps | cut -d' ' -f2",
    "personality": "cat /proc/self/personality",
    "core dumps and timers": "cat /proc/self/coredump_filter /proc/self/timerslack_ns",
    "open files": "ls /proc/$$/fd; readlink /proc/$$/fd/0",
    "process group and terminal": "read -r _ _ _ _ group session terminal _ </proc/$$/stat; "
    'echo "leads: group $((group == $$)) session $((session == $$)), terminal $terminal"',
    "cgroups": "cat /proc/self/cgroup",
    "user and groups": "id; whoami",
    "home": 'echo "$HOME"; cd && pwd',
    "host": "hostname",
    "shared memory": "df -k /dev/shm | awk 'NR == 2 {print $2}'",
    "clock": "date -d @1800000000 +%c%z",
    "time zones": 'TZ=Asia/Seoul date -d @1800000000 +%c%Z; echo "TZ=$TZ"',
    "language": 'echo "$LANG" "$LC_ALL"',
    "temporary folder": 'echo "$TMPDIR"; mktemp -u | grep -o ".*/"',
}


def body(names: frozenset[str] = frozenset(SHOWN)) -> str:
    """Return commands that print each of these attributes below its name."""
    parts = (f"echo '== {name}'; {{ {SHOWN[name]}; }} 2>&1\n" for name in SHOWN if name in names)
    return "".join(parts)


def read(text: str) -> dict[str, str]:
    """Return the attributes by name; what names the job itself is left out."""
    text = re.sub(r"job_?0*\d+", "job", text)
    parts = re.split(r"^== (.*)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))
