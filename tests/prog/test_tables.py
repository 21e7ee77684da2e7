"""The maps as the agent writes them: what a kill between two writes leaves, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from pyagent.compiler.rows import PolicyKey, PolicyValue, Verdict
from pyagent.config import MapSizes
from pyagent.errors import KernelError
from pyagent.kernel import loader, pins
from pyagent.kernel.tables import Tables
from pyagent.model import Direction, Protocol
from pyagent.plan import IdentityRow, Rows, plan

_SMALL = MapSizes(policy=64, conntrack=64, identities=64, counters=64, events=4096)


@pytest.fixture(scope="module")
def pin_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    state_dir = tmp_path_factory.mktemp("state")
    folder = pins.mount(state_dir)
    loader.load(folder, _SMALL, 15001).close()
    yield folder
    pins.unmount(state_dir)


@pytest.fixture
def tables(pin_folder: Path) -> Iterator[Tables]:
    with Tables(pin_folder) as opened:
        opened.apply(plan(opened.read(), Rows()))
        yield opened


def _allow(port: int) -> dict[PolicyKey, PolicyValue]:
    key = PolicyKey(256, 0, Direction.INGRESS, Protocol.TCP, port, 16)
    return {key: PolicyValue(Verdict.ALLOW, 100, 7)}


def test_rows_come_back_as_they_were_written(tables: Tables) -> None:
    rows = Rows(
        identities={
            ip_network("0.0.0.0/0"): IdentityRow(2, False),
            ip_network("::/0"): IdentityRow(2, False),
            ip_network("10.0.0.0/8"): IdentityRow(300, False),
            ip_network("fd00::1/128"): IdentityRow(1, True),
        },
        policy={
            **_allow(443),
            PolicyKey(256, 300, Direction.EGRESS, Protocol.ANY, 0, 0): PolicyValue(
                Verdict.HANDOFF, 200, 8
            ),
            PolicyKey(256, 300, Direction.EGRESS, Protocol.UDP, 8192, 3): PolicyValue(
                Verdict.DENY, 65535, 9
            ),
        },
    )
    tables.apply(plan(tables.read(), rows))
    assert tables.read() == rows


def test_a_plan_that_judges_anew_moves_the_revision_once(tables: Tables) -> None:
    before = tables.revision
    tables.apply(plan(tables.read(), Rows(policy=_allow(80) | _allow(81))))
    assert tables.revision == before + 1
    tables.apply(plan(tables.read(), Rows(policy=_allow(80) | _allow(81))))
    assert tables.revision == before + 1


def test_a_kill_between_rows_and_revision_is_made_good(tables: Tables, pin_folder: Path) -> None:
    before = tables.revision
    many = {key: value for port in range(100) for key, value in _allow(port).items()}
    with pytest.raises(KernelError, match=r"^map policy: full with 64 entries$"):
        tables.apply(plan(Rows(), Rows(policy=many)))
    assert tables.revision == before
    with Tables(pin_folder) as following:
        following.finish()
        assert following.revision == before + 1
        following.finish()
        assert following.revision == before + 1


def test_operations_are_tallied_by_outcome(pin_folder: Path) -> None:
    told: list[tuple[str, str, str, int]] = []
    with Tables(pin_folder, lambda *operation: told.append(operation)) as tables:
        tables.apply(plan(tables.read(), Rows()))
        told.clear()
        tables.apply(plan(Rows(), Rows(policy=_allow(80))))
        tables.apply(plan(Rows(policy=_allow(80)), Rows()))
    assert told == [("policy", "update", "ok", 1), ("policy", "delete", "ok", 1)]
