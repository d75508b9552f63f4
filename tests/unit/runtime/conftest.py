from collections.abc import Iterator

import pytest

from tests.unit.runtime import node as nodes
from tests.unit.runtime.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for the tests of a module: each takes names of its own."""
    with nodes.node(tmp_path_factory.mktemp("node")) as there:
        yield there
