"""`sluice map` over real pinned maps, with no agent running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
import yaml

from pyagent.compiler.rows import PolicyKey, PolicyValue, Verdict
from pyagent.config import MapSizes
from pyagent.kernel import abi, pins
from pyagent.kernel.tables import Tables
from pyagent.model import Direction, Protocol
from pyagent.plan import Change, Plan
from tests.prog.cli_place import (
    FLOW_KEY,
    MANY,
    Place,
    loaded_place,
    number_of,
)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Place]:
    with loaded_place() as place:
        yield place


def test_map_list_has_every_map_with_its_layout_and_entries(loaded: Place) -> None:
    rows = {row["name"]: row for row in loaded.json("map", "list")}
    assert set(rows) == {*abi.load().maps, "events"}
    with Tables(pins.pin_directory(loaded.state_dir)) as tables:
        for name in abi.load().maps:
            layout, capacity = tables[name].layout, tables[name].capacity
            entries = len(list(tables[name].records()))
            shown = tuple(rows[name][field] for field in ("type", "key", "value", "capacity"))
            assert shown == (layout.type, layout.key.name, layout.value.name, capacity)
            assert rows[name]["entries"] == entries
            assert rows[name]["bytes"] > 0
    assert rows["tenants"]["entries"] == 7
    assert rows["events"]["bytes"] >= MapSizes().events


@pytest.mark.parametrize("name", list(abi.load().maps))
def test_a_dump_loses_nothing_and_has_its_order(loaded: Place, name: str) -> None:
    rows = loaded.json("map", "dump", name)
    with Tables(pins.pin_directory(loaded.state_dir)) as tables:
        layout = tables[name].layout
        expected = {layout.key.pack(key): value for key, value in tables[name].records()}
    addresses = {f.name for f in (*layout.key.fields, *layout.value.fields) if f.kind == "address"}

    def typed(row: dict[str, Any]) -> abi.Record:
        return {
            field: ip_address(entry)
            if field in addresses
            else tuple(entry)
            if isinstance(entry, list)
            else entry
            for field, entry in row.items()
        }

    found = {layout.key.pack(typed(row)): typed(row) for row in rows}
    assert found.keys() == expected.keys()
    assert len(rows) == len(expected)
    for key, value in expected.items():
        assert {field: found[key][field] for field in value} == value
    assert rows == loaded.json("map", "dump", name)
    assert yaml.safe_load(loaded.sluice("map", "dump", name, "-o", "yaml")[1]) == rows


def test_a_dump_of_policy_names_its_numbers_and_shows_port_ranges(loaded: Place) -> None:
    web, db = number_of(loaded, "shop: app=web"), number_of(loaded, "shop: app=db")
    rows = [
        row
        for row in loaded.json("map", "dump", "policy")
        if (row["subject"], row["peer"], row["direction"]) == (db, web, 0) and row["verdict"] == 1
    ]
    seen = {(row["protocol_name"], row["ports"], row["verdict_name"]) for row in rows}
    assert seen == {("tcp", "5432", "allow"), ("udp", "6000-6007", "allow")}
    for row in rows:
        assert (row["subject_name"], row["peer_name"]) == ("shop: app=db", "shop: app=web")
        assert row["rule_name"] == "shop/to-db ingress[0]"
        assert row["direction_name"] == "ingress"
    anything = [row for row in loaded.json("map", "dump", "policy") if row["prefixlen"] == 72]
    assert {(row["protocol_name"], row["ports"]) for row in anything} == {("any", "any")}


def test_a_dump_is_in_the_order_of_its_keys(loaded: Place) -> None:
    fields = ("subject", "peer", "direction", "protocol", "port", "prefixlen")
    keys = [tuple(row[field] for field in fields) for row in loaded.json("map", "dump", "policy")]
    assert keys == sorted(keys)
    prefixes = [row["prefix"] for row in loaded.json("map", "dump", "identities")]
    assert prefixes == [
        *("::/0", "0.0.0.0/0", "10.0.0.1/32", "10.1.0.2/32", "10.1.0.3/32", "192.0.2.0/24"),
        "fd00:1::2/128",
    ]


def test_a_dump_as_a_table_is_not_cut_in_a_pipe(loaded: Place) -> None:
    _, out, _ = loaded.sluice("map", "dump", "policy")
    heading, *lines = out.splitlines()
    assert heading.split() == [
        *("SUBJECT", "PEER", "DIRECTION", "PROTOCOL", "PORTS", "VERDICT", "PRECEDENCE", "RULE")
    ]
    assert len(lines) == len(loaded.json("map", "dump", "policy"))
    web, db = number_of(loaded, "shop: app=web"), number_of(loaded, "shop: app=db")
    [line] = [line for line in lines if "6000-6007" in line and f"{web} (shop: app=web)" in line]
    fields = [field for field in line.split("  ") if field]
    assert [field.strip() for field in fields[:6]] == [
        *(f"{db} (shop: app=db)", f"{web} (shop: app=web)"),
        *("ingress", "udp", "6000-6007", "allow"),
    ]
    assert line.endswith("(shop/to-db ingress[0])")


def test_a_dump_of_conntrack_names_state_leg_and_flags(loaded: Place) -> None:
    [row] = loaded.json("map", "dump", "conntrack")
    assert (row["low"], row["high"]) == ("10.1.0.2", "10.1.0.3")
    assert (row["low_port"], row["high_port"], row["created"]) == (40000, 5432, 2**60)
    assert (row["packets"], row["bytes"]) == ([5, 4], [500, 400])
    assert (row["state_name"], row["leg_name"]) == ("established", "direct")
    assert row["flags_name"] == ["low_is_originator", "replied"]
    assert row["rule_name"] == "shop/to-db ingress[0]"


def test_a_dump_of_identities_shows_prefixes(loaded: Place) -> None:
    rows = {row["prefix"]: row for row in loaded.json("map", "dump", "identities")}
    assert rows.keys() == {
        *("0.0.0.0/0", "::/0", "192.0.2.0/24"),
        *("10.0.0.1/32", "10.1.0.2/32", "10.1.0.3/32", "fd00:1::2/128"),
    }
    assert rows["10.0.0.1/32"]["flags_name"] == ["node"]
    assert rows["0.0.0.0/0"]["identity_name"] == "world"


def test_an_empty_map_is_an_empty_list(loaded: Place) -> None:
    assert loaded.json("map", "dump", "fragments") == []
    assert loaded.sluice("map", "dump", "fragments", "-o", "yaml") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("10.1.0.2", "10.1.0.2/32"),
        ("192.0.2.77", "192.0.2.0/24"),
        ("192.0.3.1", "0.0.0.0/0"),
        ("fd00:1::2", "fd00:1::2/128"),
        ("fd00:1::3", "::/0"),
    ],
)
def test_get_answers_with_the_longest_match(loaded: Place, address: str, prefix: str) -> None:
    row = loaded.json("map", "get", "identities", f"address={address}")
    assert row["prefix"] == prefix
    with Tables(pins.pin_directory(loaded.state_dir)) as tables:
        key: abi.Record = {"prefixlen": 128, "address": ip_address(address)}
        assert {field: row[field] for field in ("identity", "flags")} == tables["identities"].get(
            key
        )


def test_get_of_policy_takes_names_and_finds_the_block(loaded: Place) -> None:
    web, db = number_of(loaded, "shop: app=web"), number_of(loaded, "shop: app=db")
    key = (f"subject={db}", f"peer={web}", "direction=ingress", "protocol=UDP", "port=6003")
    row = loaded.json("map", "get", "policy", *key)
    assert (row["ports"], row["verdict_name"], row["port"]) == ("6000-6007", "allow", 6000)
    heading, line = loaded.sluice("map", "get", "policy", *key)[1].splitlines()
    assert "PORTS" in heading
    assert "6000-6007" in line


def test_get_by_fields_of_a_hash(loaded: Place) -> None:
    key = [f"{field}={value}" for field, value in FLOW_KEY.items()]
    [dumped] = loaded.json("map", "dump", "conntrack")
    assert loaded.json("map", "get", "conntrack", *key) == dumped
    assert loaded.json("map", "get", "stats", "index=events_lost")["value"] == 4
    reason = loaded.json("map", "get", "counters", *counter_key(loaded))
    assert (reason["packets"], reason["bytes"]) == (3, 300)


def counter_key(place: Place) -> tuple[str, ...]:
    db = number_of(place, "shop: app=db")
    return f"identity={db}", "reason=policy_ingress", "direction=ingress"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("local_addrs", "address=10.9.9.9"), "map local_addrs has no entry for address=10.9.9.9"),
        (
            ("local_addrs", "colour=red"),
            "map local_addrs: unknown field colour: its key is address",
        ),
        (
            ("counters", "identity=1"),
            "map counters: reason is missing: its key is identity reason direction",
        ),
        (
            ("local_addrs", "address=ten"),
            "map local_addrs: address must be an IPv4 or IPv6 address, not 'ten'",
        ),
        (
            ("counters", "identity=1", "reason=0", "direction=up"),
            "map counters: direction must be a number or one of ingress, egress, not 'up'",
        ),
        (
            ("tenants", "tenant=4294967296"),
            "map tenants: tenant=4294967296: a number is out of its range",
        ),
        (
            ("identities", "address=::1", "prefixlen=129"),
            "map identities: address=::1 prefixlen=129: a number is out of its range",
        ),
    ],
)
def test_get_refuses_in_one_line(loaded: Place, arguments: tuple[str, ...], line: str) -> None:
    assert loaded.refusal("map", "get", *arguments) == line


def test_an_unknown_map_is_a_usage_error_that_lists_them(loaded: Place) -> None:
    for command in (("dump", "colours"), ("get", "colours", "a=1")):
        line = loaded.refusal("map", *command, status=2)
        assert all(f"'{name}'" in line for name in abi.load().maps)


def test_a_hundred_thousand_rows_in_a_few_seconds(loaded: Place) -> None:
    rows = {
        PolicyKey(1000 + n // 1000, 2000 + n % 1000, Direction.INGRESS, Protocol.TCP, 80, 16):
        PolicyValue(Verdict.ALLOW, 1, 1)
        for n in range(MANY)
    }  # fmt: skip
    with Tables(pins.pin_directory(loaded.state_dir)) as tables:
        before = len(list(tables["policy"].records()))
        tables.apply(Plan((Change("policy", put=rows),), new_revision=False))
        try:
            begun = time.monotonic()
            dumped = loaded.json("map", "dump", "policy")
            seconds = time.monotonic() - begun
            pressure = loaded.json("status")["kernel"]["pressure"]
        finally:
            tables.apply(Plan((Change("policy", remove=tuple(rows)),), new_revision=False))
    print(f"{len(dumped)} rows in {seconds:.1f} s")
    assert len(dumped) == MANY + before
    assert seconds < 10
    assert [full["map"] for full in pressure] == ["policy", "tenants"]
