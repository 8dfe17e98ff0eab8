"""What a reader of the results must know of single files: skipped, or not quite as they were."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bridge.results.trouble import printable

KEPT = 1000

TEXTS: dict[str, dict[str, str]] = {
    "symlink": {
        "en": "a symbolic link; links are not followed",
        "ko": "심볼릭 링크입니다. 링크는 따라가지 않습니다",
    },
    "fifo": {"en": "a named pipe, not a file", "ko": "파일이 아니라 이름 있는 파이프입니다"},
    "socket": {"en": "a socket, not a file", "ko": "파일이 아니라 소켓입니다"},
    "device": {"en": "a device, not a file", "ko": "파일이 아니라 장치입니다"},
    "unreadable": {
        "en": "could not be read on the node",
        "ko": "노드에서 읽을 수 없었습니다",
    },
    "vanished": {
        "en": "vanished before it could be copied",
        "ko": "복사하기 전에 사라졌습니다",
    },
    "too_deep": {
        "en": "nested too deeply; pack such trees into an archive",
        "ko": "폴더가 너무 깊습니다. 아카이브로 묶어 주세요",
    },
    "too_sparse": {
        "en": "a huge file that is almost all holes",
        "ko": "거의 비어 있는 초대형 희소(sparse) 파일입니다",
    },
    "name_refused": {
        "en": "the NAS does not accept this name",
        "ko": "NAS가 이 이름을 받아들이지 않습니다",
    },
    "too_large": {
        "en": "larger than a file on the NAS may be",
        "ko": "NAS에 저장할 수 있는 파일 크기를 넘습니다",
    },
    "in_the_way": {
        "en": "something else of that name is in the result folder already",
        "ko": "결과 폴더에 같은 이름의 다른 항목이 이미 있습니다",
    },
    "changed": {
        "en": "kept changing while it was copied; the copy is of one moment",
        "ko": "복사하는 동안 계속 바뀌었습니다. 한 시점의 사본입니다",
    },
    "made_readable": {
        "en": "was not readable even for its owner; made readable so that it could be copied",
        "ko": "소유자도 읽을 수 없어 읽기 권한을 주고 복사했습니다",
    },
}


@dataclass(frozen=True)
class Remark:
    """One file, by its path in the result folder, and the key in `TEXTS` of what is with it."""

    path: str
    kind: str

    def text(self, language: str) -> str:
        """Return "path: what is with it" in one language."""
        return f"{printable(self.path)}: {TEXTS[self.kind][language]}"


@dataclass
class Remarks:
    """The first `KEPT` remarks in full and the number of all: a job may make millions."""

    kept: list[Remark] = field(default_factory=list)
    count: int = 0

    def add(self, path: str, kind: str) -> None:
        self.count += 1
        if len(self.kept) < KEPT:
            self.kept.append(Remark(path, kind))

    def extend(self, others: "Remarks") -> None:
        """Add those of another part of the same results."""
        self.kept += others.kept[: KEPT - len(self.kept)]
        self.count += others.count

    def __iter__(self) -> Iterator[Remark]:
        return iter(self.kept)
