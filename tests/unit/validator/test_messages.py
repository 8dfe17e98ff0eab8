import re
from pathlib import Path
from string import Formatter

import pytest

from validator import messages
from validator.findings import error

ROOT = Path(__file__).parents[3]


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


@pytest.mark.parametrize("code", messages.CATALOGUE)
def test_both_languages_have_the_same_placeholders(code):
    entry = messages.CATALOGUE[code]
    assert placeholders(entry.en) == placeholders(entry.ko)


@pytest.mark.parametrize("code", messages.CATALOGUE)
def test_the_korean_sentence_is_korean_and_both_end_as_sentences(code):
    entry = messages.CATALOGUE[code]
    assert re.search("[가-힣]{2}", entry.ko)
    assert not re.search("[가-힣]", entry.en)
    for text in (entry.en, entry.ko):
        assert text.rstrip("”)값")[-1] in ".?=", text


def test_every_code_that_is_raised_is_in_the_catalogue_and_the_other_way_round():
    sources = [*ROOT.glob("validator/*.py"), *ROOT.glob("watcher/*.py")]
    text = "\n".join(path.read_text() for path in sources)
    raised = set(re.findall(r'(?<![.\w])(?:error|warning|_Fault)\(\s*"([a-z0-9_]+)"', text))
    assert raised == set(messages.CATALOGUE)


def test_a_sentence_is_filled_with_the_findings_parameters():
    finding = error("repeated_directive", 5, key="IMAGE", first_line=3)
    assert "K8S_IMAGE is already given in line 3" in messages.sentence(finding, "en")
    assert "3번째 줄" in messages.sentence(finding, "ko")
