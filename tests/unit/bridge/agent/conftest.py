"""A clock for tests of what waits."""

import pytest


class Clock:
    """Tells the time that a test has set, in seconds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
