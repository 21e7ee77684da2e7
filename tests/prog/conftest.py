"""The node that the tests of this folder share, and one empty world on it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prog.harness import World
from tests.prog.node import Node


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    made = Node(Path(tmp_path_factory.mktemp("node")))
    yield made
    made.close()


@pytest.fixture
def world(node: Node) -> Iterator[World]:
    made = World(node)
    yield made
    made.clear()
