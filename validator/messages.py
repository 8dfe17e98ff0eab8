"""The catalogue: each finding's code in the words that users read, English and Korean.

A sentence says what is wrong, with which thing, why that matters, and what to do now. Both
languages of a code have the same placeholders (a test holds them together).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from validator.findings import Finding


@dataclass(frozen=True)
class Entry:
    """One code's sentences; `{name}` stands for the finding's parameter of that name."""

    en: str
    ko: str

    def in_language(self, language: str) -> str:
        """Return the template in "en" or "ko"."""
        return self.ko if language == "ko" else self.en


# The file as a whole.
_FILE = {
    "empty": Entry(
        "The file is empty. Perhaps it was not copied completely; copy it again.",
        "파일이 비어 있습니다. 복사가 끝나지 않았을 수 있으니 다시 복사해 주세요.",
    ),
    "only_blanks": Entry(
        "The file holds nothing but blanks. Write the script into it, beginning with #!/bin/bash.",
        "파일에 공백만 있습니다. #!/bin/bash로 시작하는 스크립트 내용을 넣어 주세요.",
    ),
    "too_large": Entry(
        "The file is {size_kib} KiB large, and Slurm takes job files up to {limit_kib} KiB. Keep "
        "data in files of their own and let the script read them.",
        "파일 크기가 {size_kib} KiB입니다. Slurm은 {limit_kib} KiB까지의 작업 파일만 받습니다. "
        "데이터는 별도 파일에 두고 스크립트에서 읽도록 해 주세요.",
    ),
    "binary": Entry(
        "The file is not a text file (it holds a NUL byte). A job file is a script; to run a "
        "program, write a script that calls it.",
        "텍스트 파일이 아닙니다(NUL 바이트가 들어 있습니다). 작업 파일은 스크립트여야 합니다. "
        "프로그램을 실행하려면 그 프로그램을 호출하는 스크립트를 작성해 주세요.",
    ),
    "utf16": Entry(
        "The file was saved as UTF-16 (“Unicode”), which Slurm cannot read. Save it as UTF-8 "
        "without BOM.",
        "파일이 UTF-16(“유니코드”)으로 저장되어 Slurm이 읽을 수 없습니다. "
        "“UTF-8(BOM 없음)”으로 다시 저장해 주세요.",
    ),
    "byte_order_mark": Entry(
        "The file begins with a byte order mark (BOM), so Slurm does not see the #! at its start. "
        "Save it as UTF-8 without BOM.",
        "파일이 BOM(바이트 순서 표시)으로 시작해서 Slurm이 맨 앞의 #!을 알아보지 못합니다. "
        "“UTF-8(BOM 없음)”으로 다시 저장해 주세요.",
    ),
    "windows_line_ends": Entry(
        "The file was saved with Windows line endings (CR LF), which Slurm refuses. Save it with "
        "LF (Unix) line endings; in Notepad++: Edit → EOL Conversion → Unix (LF).",
        "파일이 Windows 줄바꿈(CRLF)으로 저장되어 Slurm이 받지 않습니다. 줄바꿈을 LF(Unix)로 "
        "저장해 주세요. Notepad++에서는 편집 → 줄의 끝 변환 → Unix(LF)입니다.",
    ),
    "stray_carriage_return": Entry(
        "There is a carriage return that ends no line. In a command it becomes part of the last "
        "word; save the file with LF (Unix) line endings.",
        "줄 끝이 아닌 곳에 캐리지 리턴(CR) 문자가 있습니다. 명령의 마지막 단어에 붙어 오류가 날 "
        "수 있으니 줄바꿈을 LF(Unix)로 저장해 주세요.",
    ),
    "not_utf8": Entry(
        "There is text that is not UTF-8 (perhaps an older Windows encoding); letters beyond "
        "ASCII may come out wrong. Save the file as UTF-8 without BOM.",
        "UTF-8이 아닌 글자가 있습니다(예전 Windows 인코딩일 수 있습니다). 한글이 깨질 수 있으니 "
        "“UTF-8(BOM 없음)”으로 저장해 주세요.",
    ),
    "no_shebang": Entry(
        "The first line does not begin with #!, so Slurm does not know what runs the script. Make "
        "#!/bin/bash the first line.",
        "첫 줄이 #!로 시작하지 않아 Slurm이 무엇으로 스크립트를 실행할지 알 수 없습니다. "
        "첫 줄에 #!/bin/bash를 넣어 주세요.",
    ),
    "blank_before_shebang": Entry(
        "There are blanks or empty lines before #!. Slurm wants it at the very start of the file; "
        "remove what stands before it.",
        "#! 앞에 공백이나 빈 줄이 있습니다. #!는 파일의 맨 처음에 있어야 합니다. "
        "그 앞의 내용을 지워 주세요.",
    ),
    "no_interpreter": Entry(
        "The #! line names no program to run the script. Write #!/bin/bash.",
        "#! 줄에 스크립트를 실행할 프로그램이 없습니다. #!/bin/bash처럼 적어 주세요.",
    ),
    "no_command": Entry(
        "The file has comments only and no command, so the job does nothing. Add the commands "
        "below the #SBATCH lines.",
        "주석만 있고 명령이 없어 작업이 아무 일도 하지 않습니다. "
        "#SBATCH 줄 아래에 실행할 명령을 적어 주세요.",
    ),
}

# #SBATCH lines.
_HEADER = {
    "unmatched_quote": Entry(
        "A quote ({quote}) is opened in this #SBATCH line and never closed. Close it, or write "
        "\\{quote} for the character itself.",
        "이 #SBATCH 줄에서 연 따옴표({quote})가 닫히지 않았습니다. 따옴표를 닫거나, 문자 그대로 "
        "쓰려면 \\{quote}로 적어 주세요.",
    ),
    "leading_colon": Entry(
        "The word “{word}” begins with a colon, which sbatch refuses in a script. Remove it or "
        "put it in quotes.",
        "“{word}”가 콜론으로 시작합니다. sbatch는 스크립트에서 이를 받지 않습니다. 지우거나 "
        "따옴표로 묶어 주세요.",
    ),
    "stray_word": Entry(
        "“{word}” is neither an option nor an option's value, so sbatch refuses the job. Put "
        "values with blanks in quotes, and comments behind a #.",
        "“{word}”는 옵션도 옵션의 값도 아니어서 sbatch가 작업을 거부합니다. 공백이 있는 값은 "
        "따옴표로 묶고, 설명은 # 뒤에 적어 주세요.",
    ),
    "waiting_option": Entry(
        "{option} has no use in a dropped job file, because nobody waits for sbatch's answer. "
        "Remove it; the result folder tells when the job has ended.",
        "{option}은(는) 폴더에 넣는 작업 파일에서는 쓸 수 없습니다. "
        "sbatch의 응답을 기다리는 사람이 없기 때문입니다. "
        "이 옵션을 지워 주세요. 작업이 끝나면 결과 폴더에서 알 수 있습니다.",
    ),
    "unknown_option": Entry(
        "sbatch has no option {option} as far as is known here. Check how it is spelt.",
        "{option}은(는) 알려진 sbatch 옵션이 아닙니다. 철자를 확인해 주세요.",
    ),
    "unknown_option_like": Entry(
        "sbatch has no option {option} as far as is known here. Did you mean {suggestion}?",
        "{option}은(는) 알려진 sbatch 옵션이 아닙니다. {suggestion}을(를) 쓰려고 하셨나요?",
    ),
    "ambiguous_option": Entry(
        "The abbreviation {option} fits several options ({matches}). Write the option in full.",
        "줄여 쓴 {option}에 맞는 옵션이 여럿입니다({matches}). 옵션 이름을 끝까지 적어 주세요.",
    ),
    "late_sbatch": Entry(
        "This #SBATCH line has no effect, because it comes after the first command. Move it up to "
        "the other #SBATCH lines.",
        "이 #SBATCH 줄은 첫 명령보다 뒤에 있어 효력이 없습니다. 다른 #SBATCH 줄이 있는 위쪽으로 "
        "옮겨 주세요.",
    ),
    "output_redirected": Entry(
        "The options for output files ({options}) are not followed for dropped files: what the "
        "job prints comes to {results}. Files that the job itself writes are not affected.",
        "제출 폴더에 넣은 작업 파일에서는 출력 파일 옵션({options})을 따르지 않습니다. 작업의 "
        "출력은 {results}에 저장됩니다. 작업이 직접 쓰는 파일에는 영향이 없습니다.",
    ),
}

# #K8S_ lines.
_DIRECTIVES = {
    "unknown_directive": Entry(
        "There is no directive {given}. Known are {known}.",
        "{given}(이)라는 지시어는 없습니다. 쓸 수 있는 지시어는 {known}입니다.",
    ),
    "unknown_directive_like": Entry(
        "There is no directive {given}. Did you mean K8S_{suggestion}?",
        "{given}(이)라는 지시어는 없습니다. K8S_{suggestion}을(를) 쓰려고 하셨나요?",
    ),
    "directive_without_value": Entry(
        "K8S_{key} must be followed at once by “=” and its value, without a blank between them: "
        "#K8S_{key}=value.",
        "K8S_{key} 바로 뒤에 공백 없이 “=”와 값이 와야 합니다. 예: #K8S_{key}=값",
    ),
    "repeated_directive": Entry(
        "K8S_{key} is already given in line {first_line}. Keep one of the two lines.",
        "K8S_{key}은(는) {first_line}번째 줄에 이미 있습니다. 둘 중 한 줄만 남겨 주세요.",
    ),
    "empty_directive": Entry(
        "K8S_{key} has no value. Write one behind the “=”, or remove the line.",
        "K8S_{key}에 값이 없습니다. “=” 뒤에 값을 적거나 이 줄을 지워 주세요.",
    ),
    "long_directive": Entry(
        "The value of K8S_{key} is longer than {limit} bytes. Shorten it.",
        "K8S_{key}의 값이 {limit}바이트보다 깁니다. 줄여 주세요.",
    ),
    "directive_not_utf8": Entry(
        "The value of K8S_{key} is not UTF-8 text. Save the file as UTF-8 without BOM.",
        "K8S_{key}의 값이 UTF-8 텍스트가 아닙니다. 파일을 “UTF-8(BOM 없음)”으로 저장해 주세요.",
    ),
    "control_character": Entry(
        "There is an invisible control character in the value of K8S_{key}. Type the line anew.",
        "K8S_{key}의 값에 보이지 않는 제어 문자가 있습니다. 이 줄을 새로 입력해 주세요.",
    ),
    "malformed_image": Entry(
        "K8S_{key}={value} is not an image reference. Write it like registry:port/name:tag, "
        "without quotes, blanks or “docker://”.",
        "K8S_{key}={value}은(는) 올바른 이미지 이름이 아닙니다. 따옴표, 공백, “docker://” 없이 "
        "레지스트리:포트/이름:태그 형식으로 적어 주세요.",
    ),
    "relative_path": Entry(
        "K8S_{key}={value} is not an absolute path. Write it in full, beginning with “/”, without "
        "quotes.",
        "K8S_{key}={value}은(는) 절대 경로가 아닙니다. 따옴표 없이 “/”로 시작하는 전체 경로를 "
        "적어 주세요.",
    ),
    "unknown_runtime": Entry(
        "K8S_{key}={value} is no runtime. Here you can choose from: {allowed}.",
        "K8S_{key}={value}(이)라는 실행 환경은 없습니다. 여기서 쓸 수 있는 것은 {allowed}입니다.",
    ),
    "runtime_not_offered": Entry(
        "K8S_{key}={value} is not offered here. Choose from: {allowed}; or remove the line to get "
        "the default.",
        "여기서는 K8S_{key}={value}을(를) 제공하지 않습니다. {allowed} 중에서 고르거나, 이 줄을 "
        "지워 기본값을 쓰세요.",
    ),
    "near_miss_directive": Entry(
        "“{given}” is read as a comment. If it is meant as a directive, write "
        "#K8S_{suggestion}=value, in capitals, without blanks before the “=”.",
        "“{given}”은(는) 주석으로 처리됩니다. 지시어로 쓰려면 대문자로, “=” 앞에 공백 없이 "
        "#K8S_{suggestion}=값 형식으로 적어 주세요.",
    ),
    "late_directive": Entry(
        "“{directive}” has no effect, because it comes after the first command. Move it up to the "
        "#SBATCH lines.",
        "“{directive}”은(는) 첫 명령보다 뒤에 있어 효력이 없습니다. #SBATCH 줄이 있는 위쪽으로 "
        "옮겨 주세요.",
    ),
    "script_not_named": Entry(
        "No command in the file names the script of K8S_SCRIPT, which runs by itself only in a "
        'file without commands. Write "$K8S_SCRIPT" where it is to run, or remove the commands.',
        "K8S_SCRIPT에 적은 스크립트를 부르는 명령이 없습니다. 이 스크립트는 명령이 하나도 없는 "
        '파일에서만 저절로 실행됩니다. 실행할 곳에 "$K8S_SCRIPT"를 적거나 명령을 지워 주세요.',
    ),
    "runtime_without_image": Entry(
        "K8S_RUNTIME={runtime} has no effect without an image; the job runs directly on the node. "
        "Add a line #K8S_IMAGE=…, or remove this one.",
        "K8S_RUNTIME={runtime}은(는) 이미지가 없으면 효력이 없고, 작업은 노드에서 직접 실행됩니다. "
        "#K8S_IMAGE=… 줄을 넣거나 이 줄을 지워 주세요.",
    ),
    "script_missing": Entry(
        "The script that K8S_SCRIPT names does not exist: {path}. Check the path; capital and "
        "small letters matter.",
        "K8S_SCRIPT에 적은 스크립트가 없습니다: {path}. 경로를 확인해 주세요. "
        "대문자와 소문자를 구분합니다.",
    ),
    "script_is_a_loop": Entry(
        "K8S_SCRIPT names a symbolic link that leads back to itself: {path}. Name "
        "the script itself.",
        "K8S_SCRIPT에 적은 심볼릭 링크가 자기 자신으로 되돌아옵니다: {path}. 스크립트 파일의 "
        "경로를 적어 주세요.",
    ),
    "script_not_a_file": Entry(
        "K8S_SCRIPT names something that is not a file: {path}. Name the script itself.",
        "K8S_SCRIPT에 적은 것이 파일이 아닙니다: {path}. 스크립트 파일의 경로를 적어 주세요.",
    ),
    "script_unreadable": Entry(
        "You ({owner}) may not read the script that K8S_SCRIPT names: {path}. Give yourself the "
        "right to read it, or ask its owner.",
        "K8S_SCRIPT에 적은 스크립트를 사용자({owner})가 읽을 수 없습니다: {path}. 읽기 권한을 "
        "설정하거나 파일 소유자에게 요청해 주세요.",
    ),
}

# What lies in the submit folder, before anything is read.
_ENTRY = {
    "is_directory": Entry(
        "This is a folder. Drop the job files themselves, each one on its own.",
        "폴더입니다. 폴더가 아니라 작업 파일을 하나씩 넣어 주세요.",
    ),
    "is_symlink": Entry(
        "This is a symbolic link, and links are not followed. Drop a copy of the job file itself.",
        "심볼릭 링크입니다. 링크는 따라가지 않습니다. 작업 파일 자체를 복사해 넣어 주세요.",
    ),
    "is_special": Entry(
        "This is not an ordinary file (but a pipe, a socket or a device). Drop a job file.",
        "일반 파일이 아닙니다(파이프, 소켓 또는 장치 파일). 작업 파일을 넣어 주세요.",
    ),
    "hard_linked": Entry(
        "The file has other names (hard links), so somebody else may have put it here. Drop a copy "
        "of it.",
        "이 파일에는 다른 이름(하드 링크)이 있어 다른 사람이 넣었을 수 있습니다. "
        "파일을 복사해서 넣어 주세요.",
    ),
    "owner_is_system": Entry(
        "The file belongs to the system account with uid {uid}, and jobs run for ordinary users "
        "only. Copy it here as the user who is to own the job.",
        "파일 소유자가 시스템 계정(uid {uid})입니다. 일반 사용자의 작업만 실행할 수 있습니다. "
        "작업을 실행할 사용자 계정으로 복사해 넣어 주세요.",
    ),
    "owner_unknown": Entry(
        "The file belongs to uid {uid}, which is no account of this cluster. Connect to the NAS "
        "with your own account, or ask the administrator.",
        "파일 소유자(uid {uid})가 이 클러스터에 등록된 계정이 아닙니다. 본인 계정으로 NAS에 "
        "연결하거나 관리자에게 문의해 주세요.",
    ),
    "unreadable": Entry(
        "The file cannot be read ({reason}). Give its owner ({owner}) the right to read it.",
        "파일을 읽을 수 없습니다({reason}). 파일 소유자({owner})에게 읽기 권한을 주세요.",
    ),
    "sbatch_refused": Entry(
        "Slurm refused the job. Its own words are below. Change the #SBATCH lines that they are "
        "about; ask the administrator when they are about an account, a limit or a partition that "
        "you should have.",
        "Slurm이 작업을 거부했습니다. 아래는 Slurm의 메시지입니다. 관련된 #SBATCH 줄을 고쳐 "
        "주세요. 계정, 한도, 파티션 사용 권한에 관한 내용이라면 관리자에게 문의해 주세요.",
    ),
}

CATALOGUE: Mapping[str, Entry] = {**_FILE, **_HEADER, **_DIRECTIVES, **_ENTRY}


def sentence(finding: Finding, language: str) -> str:
    """Return what `finding` says in `language` ("en" or "ko")."""
    return CATALOGUE[finding.code].in_language(language).format_map(finding.parameters)
