"""Nodes for the tests with real traffic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.node import Node


@pytest.fixture
def node() -> Iterator[Node]:
    """A fresh node without an agent; all that belongs to it is gone afterwards."""
    node = Node()
    yield node
    node.close()


@pytest.fixture(scope="module")
def shared_node() -> Iterator[Node]:
    """A node for all tests of a module, which agree on what runs on it."""
    node = Node()
    yield node
    node.close()
