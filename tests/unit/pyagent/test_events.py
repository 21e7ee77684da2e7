"""Events in words, JSON and back, and subscribing where no agent runs. The stream itself needs
the kernel's ring: tests/prog."""

from __future__ import annotations

import json
import socket
import threading
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyagent.errors import SluiceError
from pyagent.events import End, FlowEvent, Names, decode, subscribe
from pyagent.kernel import abi
from pyagent.model import Address
from pyagent.state import NodeState, WorkloadState, events_path

ABI = abi.load()
WEB, CLIENT, OUTSIDE = "10.1.0.2", "fd00:1::7", "192.0.2.9"
STATE = NodeState(
    node="node-1",
    version="0",
    pid=1,
    started=0.0,
    rules={7: "shop/allow-web ingress[0]"},
    identities={256: "ns shop, app=web", 2: "world"},
    tenants={3: "shop"},
    workloads=(
        WorkloadState("shop/web-1", 256, 3, "veth1", 11, None, (WEB,)),
        WorkloadState("shop/client", 257, 3, "veth2", 12, None, (CLIENT,)),
    ),
)


def number(macro: str, name: str) -> int:
    return next(choice.number for choice in ABI.lists[macro] if choice.name == name)


def raw(**fields: Any) -> bytes:
    return ABI.layouts["event"].pack(
        {"type": number("EVENT_TYPES", "DROP"), "ifindex": 99, "length": 74, **fields}
    )


def test_every_field_in_words() -> None:
    event = decode(
        raw(
            time=5_000_001_000,
            type=number("EVENT_TYPES", "HANDOFF"),
            verdict=number("VERDICTS", "HANDOFF"),
            reason=0,
            direction=1,
            protocol=6,
            source=ip_address(CLIENT),
            destination=ip_address(WEB),
            source_port=40000,
            destination_port=80,
            source_identity=2,
            destination_identity=256,
            rule=7,
            tenant=3,
            ifindex=12,
            tcp_flags=0x12,
        ),
        Names.of(STATE),
    )
    boot = time.time() - time.monotonic()
    assert event == FlowEvent(
        time=event.time,
        type="handoff",
        verdict="handoff",
        reason="none",
        direction="egress",
        protocol="TCP",
        source=End(IPv6Address(CLIENT), 40000, 2, "world", "shop/client"),
        destination=End(IPv4Address(WEB), 80, 256, "ns shop, app=web", "shop/web-1"),
        rule="shop/allow-web ingress[0]",
        tenant="shop",
        ifindex=12,
        length=74,
        tcp_flags="SYN,ACK",
    )
    assert event.time == pytest.approx(boot + 5.000001, abs=1.0)


@pytest.mark.parametrize(
    ("macro", "field"),
    [("DROP_REASONS", "reason"), ("VERDICTS", "verdict"), ("EVENT_TYPES", "type")],
)
def test_names_are_those_of_the_abi(macro: str, field: str) -> None:
    for choice in ABI.lists[macro]:
        event = decode(raw(**{field: choice.number}), Names())
        assert getattr(event, field) == choice.name.lower()


def test_numbers_without_a_name_stay_numbers() -> None:
    event = decode(
        raw(rule=8, tenant=9, source_identity=900, type=77, protocol=89, source=ip_address(WEB)),
        Names(),
    )
    assert (event.rule, event.tenant, event.type, event.protocol) == ("8", "9", "77", "89")
    assert event.source == End(IPv4Address(WEB), 0, 900, "", None)


def test_reserved_identities_have_labels_in_an_empty_state() -> None:
    names = Names.of(NodeState(node="n", version="0", pid=1, started=0.0))
    event = decode(raw(source_identity=1, destination_identity=2), names)
    assert (event.source.labels, event.destination.labels) == ("node", "world")


def test_a_packet_that_was_not_parsed_has_no_addresses() -> None:
    event = decode(
        raw(reason=number("DROP_REASONS", "TRUNCATED"), ifindex=11, direction=1), Names()
    )
    assert event.source == event.destination == End(None, 0, 0, "", None)
    assert (event.protocol, event.rule, event.tenant, event.tcp_flags) == ("", None, None, "")
    assert decode(raw(destination=ip_address("ff02::1")), Names()).source.address == IPv6Address(0)


@pytest.mark.parametrize(
    ("direction", "ifindex", "workload"),
    [(1, 12, "shop/client"), (1, 99, "shop/web-1"), (0, 12, "shop/web-1")],
    ids=["sent by the liar", "sent by no workload", "sent to the interface"],
)
def test_a_sender_is_known_by_its_interface_not_by_its_claim(
    direction: int, ifindex: int, workload: str
) -> None:
    fields = {"source": ip_address(WEB), "destination": ip_address(OUTSIDE)}
    event = decode(raw(direction=direction, ifindex=ifindex, **fields), Names.of(STATE))
    assert event.source.workload == workload


addresses: st.SearchStrategy[Address] = st.ip_addresses()
ends = st.builds(
    End,
    st.none() | addresses,
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.text(max_size=20),
    st.none() | st.text(max_size=20),
)
words = st.text(max_size=20)
flow_events = st.builds(
    FlowEvent,
    time=st.floats(0, 2**40),
    type=words,
    verdict=words,
    reason=words,
    direction=words,
    protocol=words,
    source=ends,
    destination=ends,
    rule=st.none() | words,
    tenant=st.none() | words,
    ifindex=st.integers(0, 2**31),
    length=st.integers(0, 2**32 - 1),
    tcp_flags=words,
)


@given(flow_events)
def test_json_and_back_is_the_same_event(event: FlowEvent) -> None:
    assert FlowEvent.from_json(json.loads(json.dumps(event.to_json()))) == event


@pytest.mark.parametrize("change", [{"colour": 1}, {"source": None}, {"destination": {}}])
def test_json_of_another_form_is_refused_in_one_line(change: dict[str, Any]) -> None:
    plain = decode(raw(), Names()).to_json()
    with pytest.raises(SluiceError, match="another version") as refused:
        FlowEvent.from_json({**plain, **change})
    assert "\n" not in str(refused.value)


def test_subscribing_where_no_agent_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="no agent runs") as refused:
        subscribe(tmp_path)
    assert "\n" not in str(refused.value)


def test_the_socket_of_a_killed_agent_counts_as_no_agent(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(events_path(tmp_path)))
    left.close()
    with pytest.raises(SluiceError, match="no agent runs"):
        subscribe(tmp_path)


def test_an_agent_that_hangs_up_at_once_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(events_path(tmp_path)))
        listener.listen()
        listener.settimeout(5)
        hanging_up = threading.Thread(target=lambda: listener.accept()[0].close())
        hanging_up.start()
        with pytest.raises(SluiceError, match="does not answer"):
            subscribe(tmp_path)
        hanging_up.join(5)
