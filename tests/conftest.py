"""What all tests share: how several processes divide them among themselves."""

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have `-n N --dist loadfile` begin with what takes longest; see work_units.py."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.work_units import LongestFirst

    return LongestFirst(config, log)
