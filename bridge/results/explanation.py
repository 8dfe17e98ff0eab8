"""How a job ended, in words that say what to do, in each language; pure."""

import signal as signals
from dataclasses import dataclass

Words = dict[str, str]


@dataclass(frozen=True)
class Ending:
    """How Slurm says that a job ended: state ("CANCELLED by 1000"), exit code, signal number.

    `log` is the file with the job's own words, "" when there is none to name.
    """

    state: str
    exit_code: int | None
    signal: int | None
    started: bool
    log: str

    @property
    def word(self) -> str:
        """The state's first word in capitals, "" when it is not known."""
        words = self.state.upper().split()
        return words[0].rstrip("+") if words else ""

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`' keys; by exit code and signal where the state says nothing."""
        known = _OUTCOME_OF_STATE.get(self.word)
        if known:
            return known
        if self.signal or self.exit_code:
            return "failure"
        return "unknown" if self.exit_code is None else "success"

    @property
    def fatal_signal(self) -> int | None:
        """The signal that ended the job, or by its exit code its last command."""
        if self.signal:
            return self.signal
        if self.exit_code is not None and 128 < self.exit_code < 128 + signals.NSIG:
            return self.exit_code - 128
        return None


OUTCOMES: dict[str, Words] = {
    "success": {"en": "succeeded", "ko": "성공"},
    "failure": {"en": "failed", "ko": "실패"},
    "cancelled": {"en": "cancelled", "ko": "취소됨"},
    "timeout": {"en": "reached its time limit", "ko": "제한 시간 초과"},
    "out_of_memory": {"en": "ran out of memory", "ko": "메모리 부족"},
    "node_failure": {"en": "lost its node", "ko": "노드 장애"},
    "preempted": {"en": "preempted", "ko": "선점됨"},
    "requeued": {"en": "put back into the queue", "ko": "다시 대기열로"},
    "unknown": {"en": "ended", "ko": "종료"},
}

_OUTCOME_OF_STATE = {
    "COMPLETED": "success",
    "FAILED": "failure",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "PREEMPTED": "preempted",
    "REQUEUED": "requeued",
}

_SENTENCES: dict[str, Words] = {
    "success": {
        "en": "The job ran to its end without an error (exit code 0).",
        "ko": "작업이 오류 없이 끝까지 실행되었습니다(종료 코드 0).",
    },
    "cancelled": {
        "en": "The job was cancelled while it ran; what it had written until then is here.",
        "ko": "작업이 실행 중에 취소되었습니다. 그때까지 기록된 내용이 여기에 있습니다.",
    },
    "cancelled_early": {
        "en": "The job was cancelled before it began.",
        "ko": "작업이 시작되기 전에 취소되었습니다.",
    },
    "timeout": {
        "en": "The job reached its time limit and was ended; what it had written until then is"
        " here. Ask for more time with a line such as: #SBATCH --time=02:00:00",
        "ko": "작업이 제한 시간에 도달하여 종료되었습니다. 그때까지 기록된 내용이 여기에 있습니다."
        " 시간이 더 필요하면 다음과 같은 줄을 넣으세요: #SBATCH --time=02:00:00",
    },
    "out_of_memory": {
        "en": "The job needed more memory than it had asked for and was ended."
        " Ask for more with a line such as: #SBATCH --mem=8G",
        "ko": "작업이 요청한 것보다 많은 메모리를 사용하여 종료되었습니다."
        " 메모리가 더 필요하면 다음과 같은 줄을 넣으세요: #SBATCH --mem=8G",
    },
    "node_failure": {
        "en": "The job's node failed. This is not the job's fault; submit it again.",
        "ko": "작업이 실행되던 노드에 장애가 발생했습니다. 작업의 잘못이 아니므로 다시 제출하세요.",
    },
    "preempted": {
        "en": "The job had to make room for one of higher priority.",
        "ko": "우선순위가 더 높은 작업에 자원을 양보했습니다.",
    },
    "requeued": {
        "en": "This run of the job was ended, and the job was put back into the queue. What the run"
        " had written until then is here; the next run's results get a folder of their own.",
        "ko": "작업의 이번 실행이 중단되고 작업이 다시 대기열에 들어갔습니다. 그때까지 기록된"
        " 내용이 여기에 있습니다. 다음 실행의 결과는 별도의 폴더에 저장됩니다.",
    },
    "unknown": {
        "en": "How the job ended is not known.",
        "ko": "작업이 어떻게 끝났는지 알 수 없습니다.",
    },
    "failure": {"en": "The job failed.", "ko": "작업이 실패했습니다."},
}

_FAILED_WITH_CODE: Words = {
    "en": "The job ended with exit code {code}.",
    "ko": "작업이 종료 코드 {code}(으)로 끝났습니다.",
}
_SEE_LOG: Words = {
    "en": "{log} should say why.",
    "ko": "이유는 {log} 파일을 보세요.",
}
_ENDED_BY_SIGNAL: Words = {
    "en": "The job was ended by signal {number} ({name}).",
    "ko": "작업이 시그널 {number}({name})에 의해 종료되었습니다.",
}
_COMMAND_ENDED_BY_SIGNAL: Words = {
    "en": "The job ended with exit code {code}: a command in it was ended by signal {number}"
    " ({name}).",
    "ko": "작업이 종료 코드 {code}(으)로 끝났습니다. 작업 안의 명령이 시그널 {number}({name})에"
    " 의해 종료되었습니다.",
}
_CODES: dict[int, Words] = {
    126: {
        "en": "126 means: a command was found but could not be run. Is it executable, and is its"
        " interpreter in the image?",
        "ko": "126은 명령을 찾았으나 실행할 수 없었다는 뜻입니다. 실행 권한이 있는지, 인터프리터가"
        " 이미지에 있는지 확인하세요.",
    },
    127: {
        "en": "127 means: a command was not found. Check its spelling, and that the image has it.",
        "ko": "127은 명령을 찾지 못했다는 뜻입니다. 철자를 확인하고 이미지에 그 명령이 있는지"
        " 확인하세요.",
    },
}
_SIGNALS: dict[int, Words] = {
    signals.SIGKILL: {
        "en": "Often memory ran out; #SBATCH --mem asks for more.",
        "ko": "메모리가 부족했을 때 자주 일어납니다. #SBATCH --mem 으로 더 요청할 수 있습니다.",
    },
    signals.SIGSEGV: {
        "en": "The program crashed: it used memory that is not its own.",
        "ko": "프로그램이 잘못된 메모리에 접근하여 비정상 종료되었습니다.",
    },
    signals.SIGBUS: {
        "en": "The program crashed; a full disk or /dev/shm also causes this.",
        "ko": "프로그램이 비정상 종료되었습니다. 디스크나 /dev/shm이 가득 찼을 때도 일어납니다.",
    },
    signals.SIGABRT: {
        "en": "The program gave up by itself.",
        "ko": "프로그램이 스스로 중단했습니다.",
    },
    signals.SIGXCPU: {
        "en": "It used up its limit of CPU time.",
        "ko": "CPU 시간 한도를 다 사용했습니다.",
    },
}
# Ends that a program makes itself and may have explained; None is an exit code.
_SELF_MADE = (None, signals.SIGABRT)


def explain(ending: Ending, language: str) -> str:
    """Return what happened, and what to do about it, in one or more sentences."""
    outcome = ending.outcome
    if outcome == "failure":
        return _failure(ending, language)
    if outcome == "cancelled" and not ending.started:
        outcome = "cancelled_early"
    return _SENTENCES[outcome][language]


def _failure(ending: Ending, language: str) -> str:
    number, code = ending.fatal_signal, ending.exit_code
    if number is None and not code:
        return _SENTENCES["failure"][language]
    if number is None:
        pattern, advice = _FAILED_WITH_CODE, _CODES.get(code or 0)
    else:
        pattern = _ENDED_BY_SIGNAL if ending.signal else _COMMAND_ENDED_BY_SIGNAL
        advice = _SIGNALS.get(number)
    sentences = [pattern, *filter(None, [advice])]
    if ending.log and number in _SELF_MADE:
        sentences.append(_SEE_LOG)
    name = "" if number is None else _name_of(number)
    facts = {"code": code, "number": number, "name": name, "log": ending.log}
    return " ".join(sentence[language].format(**facts) for sentence in sentences)


def _name_of(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"SIG{number}"
