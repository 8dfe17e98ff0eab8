"""YAML that people read and Kubernetes reads back."""

import yaml

from bridge.config import Config
from bridge.runtimes.kubernetes import site, yaml_text


def test_what_is_written_reads_back_as_it_was():
    contents = [
        {"z": "on", "a": "1.10", "b": "한국어: yes", "long": "word " * 60 + "end", "none": None},
        {"lines": "one\n\n  two\nthree", "empty": "", "list": [{"x": 1}], "trailing": "x\n" * 60},
        *site.objects(Config()),
    ]
    assert list(yaml.safe_load_all(yaml_text.documents(contents))) == contents


def test_keys_stay_in_their_order_and_long_texts_are_folded():
    text = yaml_text.document({"kind": "Pod", "apiVersion": "v1", "why": "because " * 20 + "so"})
    assert text.startswith("kind: Pod\napiVersion: v1\nwhy: >-\n  because because")
    assert max(map(len, text.splitlines())) <= 110
