"""Objects as YAML for people: keys in the order given, long texts folded."""

from collections.abc import Iterable
from typing import Any

import yaml

_WIDTH = 100


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Folds long texts, where PyYAML would quote them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = ">" if len(text) > _WIDTH - 20 or "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def document(content: dict[str, Any]) -> str:
    """Return one object as a YAML document."""
    options = {"sort_keys": False, "allow_unicode": True, "width": _WIDTH}
    return str(yaml.dump(content, Dumper=_Dumper, **options))


def documents(contents: Iterable[dict[str, Any]]) -> str:
    """Return objects as a stream of documents, as `kubectl apply -f` reads it."""
    return "---\n".join(map(document, contents))
