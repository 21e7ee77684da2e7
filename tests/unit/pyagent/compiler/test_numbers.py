from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyagent.compiler import Numbers
from pyagent.compiler.rows import FIRST_IDENTITY
from pyagent.errors import SluiceError

NAMES = st.frozensets(st.sampled_from("abcdefgh"), max_size=8)


def of_rules(numbers: Numbers) -> dict[str, int]:
    return dict(numbers.rules)


def renew(numbers: Numbers, names: str) -> Numbers:
    return numbers.renew(identities=(), rules=names, tenants=())


def test_lowest_free_number_in_the_order_of_names() -> None:
    numbers = Numbers().renew(identities=["y", "x"], rules=["r"], tenants=["t", "s"])
    assert numbers == Numbers(
        identities={"x": FIRST_IDENTITY, "y": FIRST_IDENTITY + 1},
        rules={"r": 1},
        tenants={"s": 1, "t": 2},
    )


def test_a_number_is_reused_only_after_a_whole_revision_without_it() -> None:
    first = renew(Numbers(), "ab")
    assert of_rules(first) == {"a": 1, "b": 2}
    second = renew(first, "bc")  # the kernel still has rows of a
    assert of_rules(second) == {"b": 2, "c": 3}
    third = renew(second, "bcd")
    assert of_rules(third) == {"b": 2, "c": 3, "d": 1}


@given(st.lists(NAMES, min_size=2, max_size=12))
def test_numbers_in_any_history(history: list[frozenset[str]]) -> None:
    numbers = Numbers()
    before: dict[str, int] = {}
    for names in history:
        numbers = numbers.renew(identities=names, rules=names, tenants=names)
        for held, first in (
            (numbers.identities, FIRST_IDENTITY),
            (numbers.rules, 1),
            (numbers.tenants, 1),
        ):
            assert held.keys() == names
            assert len(set(held.values())) == len(names)
            assert all(number >= first for number in held.values())
        now = of_rules(numbers)
        assert all(now[name] == before[name] for name in now.keys() & before.keys())
        newcomers = {now[name] for name in now.keys() - before.keys()}
        assert not newcomers & set(before.values())
        free = set(range(1, 20)) - set(before.values())
        assert newcomers == set(sorted(free)[: len(newcomers)])
        before = now


@given(st.lists(NAMES, max_size=5))
def test_json_round_trip(history: list[frozenset[str]]) -> None:
    numbers = Numbers()
    for names in history:
        numbers = numbers.renew(identities=names, rules=names, tenants=names)
    assert Numbers.from_json(json.loads(json.dumps(numbers.to_json()))) == numbers


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (None, "expected an object with exactly identities, rules, tenants"),
        ([], "expected an object with exactly"),
        ({"identities": {}, "rules": {}}, "expected an object with exactly"),
        (
            {"identities": {}, "rules": {}, "tenants": {}, "more": {}},
            "expected an object with exactly",
        ),
        ({"identities": [], "rules": {}, "tenants": {}}, "identities: expected an object"),
        ({"identities": {"x": 255}, "rules": {}, "tenants": {}}, "not a number from 256"),
        ({"identities": {}, "rules": {"x": 0}, "tenants": {}}, "rules: 'x' has 0"),
        ({"identities": {}, "rules": {"x": True}, "tenants": {}}, "rules: 'x' has True"),
        ({"identities": {}, "rules": {"x": 1.0}, "tenants": {}}, "rules: 'x' has 1.0"),
        ({"identities": {}, "rules": {"x": "1"}, "tenants": {}}, "rules: 'x' has '1'"),
        ({"identities": {}, "rules": {}, "tenants": {"x": 2**32}}, "not a number from 1"),
        ({"identities": {}, "rules": {}, "tenants": {1: 1}}, "tenants: 1 is not text"),
        (
            {"identities": {}, "rules": {"x": 1, "y": 1}, "tenants": {}},
            "'y' and 'x' both have number 1",
        ),
    ],
)
def test_garbage_is_refused_in_one_line(broken: object, says: str) -> None:
    with pytest.raises(SluiceError) as caught:
        Numbers.from_json(broken)
    assert says in str(caught.value)
    assert str(caught.value).startswith("numbers: ")
    assert "\n" not in str(caught.value)
