"""A folder for the programs of native/ that tests compile."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.native.compiled import Built


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    folder = Path(tempfile.mkdtemp(prefix="sbridge-native-"))
    folder.chmod(0o755)
    yield Built(folder)
    shutil.rmtree(folder)
