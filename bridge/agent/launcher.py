"""The program in front of a script of `/bin/sh`, for what a script cannot do for itself.

It says so where an image has no `/bin/sh`: of a script the kernel says only that there is no such
file. And a shell cannot catch what was ignored when it began, as SIGINT and SIGQUIT are for what
another shell put into the background; so this has them do what they do by default.

The program is as good as nothing but system calls, needs no library of the image, and is written
as what a processor reads. Where there is none for the node's processor, the script stands alone.
"""

import os
import struct
from collections.abc import Callable

_SHELL = b"/bin/sh"
_NO_SHELL = 127  # as a shell says that there is no such command
_BASE = 0x400000
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_EXECUTABLE, _X86_64, _LOADED, _READ_AND_EXECUTE = 2, 62, 1, 5
_IDENTITY = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian

# rax: system call; rdi, rsi, rdx, r10: its arguments.
_DEFAULT = """
    bf {signal}               ; mov edi, signal
    be {zeros}                ; mov esi, zeros              a sigaction of SIG_DFL
    31 d2                     ; xor edx, edx
    41 ba 08 00 00 00         ; mov r10d, 8                 bytes of its mask
    b8 0d 00 00 00            ; mov eax, 13                 rt_sigaction
    0f 05                     ; syscall
"""
_START = """
    48 8b 1c 24               ; mov rbx, [rsp]              argc
    48 8d 54 dc 10            ; lea rdx, [rsp+rbx*8+16]     the environment, behind the arguments
    48 c7 44 24 08 {script}   ; mov qword [rsp+8], script   in the place of the first argument
    48 c7 04 24 {shell}       ; mov qword [rsp], shell      and the shell before it
    bf {shell}                ; mov edi, shell
    48 89 e6                  ; mov rsi, rsp
    b8 3b 00 00 00            ; mov eax, 59                 execve
    0f 05                     ; syscall
    bf 02 00 00 00            ; mov edi, 2
    be {words}                ; mov esi, words
    ba {length}               ; mov edx, length
    b8 01 00 00 00            ; mov eax, 1                  write
    0f 05                     ; syscall
    bf {code}                 ; mov edi, code
    b8 e7 00 00 00            ; mov eax, 231                exit_group
    0f 05                     ; syscall
"""


def program(script: str, signals: tuple[int, ...], words: str) -> bytes | None:
    """Return the program that runs `script`, an absolute path inside, with its own arguments.

    It has `signals` do what they do by default. `words` are said where there is no shell. None:
    this processor's language is not known here.
    """
    write = _LANGUAGES.get(os.uname().machine)
    return write(script.encode(), signals, words.encode()) if write else None


def _x86_64(script: bytes, signals: tuple[int, ...], words: bytes) -> bytes:
    values = {"length": len(words), "code": _NO_SHELL}
    data = b""
    start = _ELF_HEADER.size + _PROGRAM_HEADER.size
    size = len(_code(_DEFAULT)) * len(signals) + len(_code(_START))
    zeros = bytes(32)
    for name, content in (
        ("zeros", zeros),
        ("script", script),
        ("shell", _SHELL),
        ("words", words),
    ):
        values[name] = _BASE + start + size + len(data)
        data += content + b"\0"
    code = b"".join(_code(_DEFAULT, {**values, "signal": number}) for number in signals)
    code += _code(_START, values)
    return _elf(start, code + data)


def _code(text: str, values: dict[str, int] | None = None) -> bytes:
    """Return the bytes before each semicolon; {name} stands for four."""
    result = b""
    for line in text.strip().splitlines():
        for word in line.partition(";")[0].split():
            value = (values or {}).get(word.strip("{}"), 0)
            result += struct.pack("<I", value) if word.startswith("{") else bytes.fromhex(word)
    return result


def _elf(start: int, content: bytes) -> bytes:
    size = start + len(content)
    header = _ELF_HEADER.pack(
        *(_IDENTITY, _EXECUTABLE, _X86_64, 1, _BASE + start, _ELF_HEADER.size, 0, 0),
        *(_ELF_HEADER.size, _PROGRAM_HEADER.size, 1, 0, 0, 0),
    )
    loaded = _PROGRAM_HEADER.pack(_LOADED, _READ_AND_EXECUTE, 0, _BASE, _BASE, size, size, 0x1000)
    return header + loaded + content


_LANGUAGES: dict[str, Callable[[bytes, tuple[int, ...], bytes], bytes]] = {"x86_64": _x86_64}
