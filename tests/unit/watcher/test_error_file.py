from validator.findings import error, warning
from watcher.error_file import Refusal, error_text

REFUSAL = Refusal(
    name="실험 1.sh",
    owner="alice",
    tag="4f" * 16,
    findings=[
        error("unknown_directive_like", 3, given="K8S_IMGE", suggestion="IMAGE"),
        error("sbatch_refused"),
        warning("late_sbatch", 9),
    ],
    sbatch="sbatch: error: first\nsbatch: error: second",
    submit="/mnt/nas/slurm-jobs/submit",
)


def test_an_error_file_tells_every_finding_its_line_and_what_to_do():
    text = error_text(REFUSAL, ["en"]).decode()
    assert text.startswith("실험 1.sh was not submitted.\n")
    assert "[ERROR] Line 3: There is no directive K8S_IMGE. Did you mean K8S_IMAGE?" in text
    assert "[Note] Line 9: This #SBATCH line has no effect" in text
    assert "What Slurm said:\n    sbatch: error: first\n    sbatch: error: second\n" in text
    assert "drop it into /mnt/nas/slurm-jobs/submit again" in text
    assert "4f4f" in text


def test_an_error_file_has_the_languages_in_their_order():
    text = error_text(REFUSAL, ["ko", "en"]).decode()
    assert text.index("[오류] 3번째 줄: ") < text.index("[ERROR] Line 3: ")
    assert "alice" in text


def test_an_error_file_is_plain_utf8():
    data = error_text(REFUSAL, ["en", "ko"])
    assert not data.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in data
    assert data.endswith(b"\n")


def test_a_file_name_cannot_forge_lines():
    refusal = Refusal("a\n[ERROR] forged\udcff", "alice", "4f" * 16, [error("empty")], "", "/s")
    assert error_text(refusal, ["en"]).decode().startswith("a�[ERROR] forged� was not submitted.\n")
