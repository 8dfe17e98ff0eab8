"""The program that starts sbridge-run's Python: it sees how it was started before Python does.

Each Python begins by ignoring SIGPIPE and SIGXFSZ, and nothing tells afterwards whether they were
ignored before, as by whatever systemd starts. The script that runs in a sandbox must find that as
Slurm left it. So this looks first, and names in an option (-X) those that were.

    python -m bridge.forerunner PYTHON SCRIPT >PROGRAM

makes the program, which runs SCRIPT with its own arguments; exit code 1: not for this processor.
"""

import os
import signal
import sys

from bridge import executable

OPTION = "ignored"
SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
_FLAGS = "-IS"  # no user's folder, no variable and no site decides what runs
_WORD_BITS = 5  # each combination's option has 32 bytes

# rax: system call; rdi, rsi, rdx, r10: its arguments; rbp: a bit for each signal that is ignored.
_ASK = """
    bf {signal}               ; mov edi, signal
    31 f6                     ; xor esi, esi                nothing new
    48 8d 54 24 c0            ; lea rdx, [rsp-64]           for what it does now
    41 ba 08 00 00 00         ; mov r10d, 8                 bytes of its mask
    b8 0d 00 00 00            ; mov eax, 13                 rt_sigaction
    0f 05                     ; syscall
    48 83 7c 24 c0 01         ; cmp qword [rsp-64], 1       SIG_IGN
    75 06                     ; jne over the next
    81 cd {bit}               ; or ebp, bit
"""
_BEGIN = """
    31 ed                     ; xor ebp, ebp
"""
_START = """
    c1 e5 {bits}              ; shl ebp, bits
    81 c5 {options}           ; add ebp, options
    48 8b 1c 24               ; mov rbx, [rsp]              argc
    48 8d 54 dc 10            ; lea rdx, [rsp+rbx*8+16]     the environment, behind the arguments
    48 c7 44 24 08 {script}   ; mov qword [rsp+8], script   in the place of the first argument,
    48 89 2c 24               ; mov [rsp], rbp              the option before it
    48 c7 44 24 f8 {python}   ; mov qword [rsp-8], python   and Python before that
    48 8d 74 24 f8            ; lea rsi, [rsp-8]
    bf {python}               ; mov edi, python
    b8 3b 00 00 00            ; mov eax, 59                 execve
    0f 05                     ; syscall
    f7 d8                     ; neg eax                     as Slurm does when it cannot start a
    89 c7                     ; mov edi, eax                script: the errno is the exit code
    b8 e7 00 00 00            ; mov eax, 231                exit_group
    0f 05                     ; syscall
""".replace("{bits}", f"{_WORD_BITS:02x}")


def program(python: str, script: str) -> bytes | None:
    """Return the program that runs `script` by `python`, None for a processor not known here."""
    if not executable.is_possible():
        return None
    asks: list[executable.Code] = [
        (_ASK, {"signal": number, "bit": 1 << place}) for place, number in enumerate(SIGNALS)
    ]
    data = {
        "python": os.fsencode(python) + b"\0",
        "script": os.fsencode(script) + b"\0",
        "options": b"".join(map(_option, range(1 << len(SIGNALS)))),
    }
    return executable.program([(_BEGIN, {}), *asks, (_START, {})], data)


def _option(ignored: int) -> bytes:
    names = [str(int(number)) for place, number in enumerate(SIGNALS) if ignored >> place & 1]
    text = f"{_FLAGS}X{OPTION}={','.join(names)}" if names else _FLAGS
    return text.encode().ljust(1 << _WORD_BITS, b"\0")


def main() -> int:
    """Write the program to stdout; returns the exit code."""
    python, script = sys.argv[1:]
    content = program(python, script)
    if content is None:
        return 1
    sys.stdout.buffer.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
