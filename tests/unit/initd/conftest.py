from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.initd.owner import Owner


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    yield owner
    owner.close()
