"""The program in front of a script of `/bin/sh`, for what a script cannot do for itself.

It says so where an image has no `/bin/sh`: of a script the kernel says only that there is no such
file. And a shell cannot catch what was ignored when it began, as SIGINT and SIGQUIT are for what
another shell put into the background; so this has them do what they do by default.

Where there is no such program for the node's processor, the script stands alone.
"""

from bridge import executable

_SHELL = b"/bin/sh"
_NO_SHELL = 127  # as a shell says that there is no such command

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
    if not executable.is_possible():
        return None
    said = words.encode()
    codes: list[executable.Code] = [(_DEFAULT, {"signal": number}) for number in signals]
    codes.append((_START, {"length": len(said), "code": _NO_SHELL}))
    data = {"zeros": bytes(32), "script": script.encode() + b"\0", "shell": _SHELL + b"\0"}
    return executable.program(codes, {**data, "words": said})
