import json
from pathlib import Path

from validator.findings import warning
from watcher.receipt import Receipt, receipt_text


def test_a_receipt_is_json_that_people_can_read():
    receipt = Receipt(
        job_id=12,
        name="실험.sh",
        owner="alice",
        tag="4f" * 16,
        digest="ab" * 32,
        submitted=1_700_000_000.5,
        results=Path("/mnt/nas/results"),
        warnings=[warning("late_sbatch", 9)],
        sbatch="",
    )
    text = receipt_text(receipt, ["en", "ko"]).decode()
    assert "실험.sh" in text
    content = json.loads(text)
    assert content["schema"] == "sbridge-receipt/1"
    assert content["results"] == "/mnt/nas/results/12"
    assert set(content["results_note"]) == {"en", "ko"}
    for note in content["results_note"].values():
        for word in ("12_2", "tag", "array", "job_id", "restart"):
            assert word in note.replace("배열", "array")
    assert content["submitted_at"] == "2023-11-14T22:13:20+00:00"
    (told,) = content["warnings"]
    assert (told["code"], told["line"], set(told["text"])) == ("late_sbatch", 9, {"en", "ko"})
