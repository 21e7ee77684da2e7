"""YAML text to plain values, and what is refused on the way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyagent.manifests.documents import MAX_ALIASED, MAX_DEPTH, Document, parse_documents
from pyagent.manifests.text import Defect, describe, field_path


def values(text: str) -> list[object]:
    documents = parse_documents(text)
    assert [document.defects for document in documents] == [()] * len(documents)
    return [document.value for document in documents]


def defects(text: str) -> list[tuple[int, str, str]]:
    return [
        (document.number, field_path(defect.location), defect.message)
        for document in parse_documents(text)
        for defect in document.defects
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ("-80", -80),
        ("+8_0", 80),
        ("010", 8),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b11", 3),
        ("0", 0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("08", 8.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("yes", True),
        ("On", True),
        ("NO", False),
        ("off", False),
        ("true", True),
        ("~", None),
        ("null", None),
        ("", None),
        ("'80'", "80"),
        ('"yes"', "yes"),
        ("!!str 80", "80"),
        ("! '80'", "80"),
        ("y", "y"),
        ("yEs", "yEs"),
        ("10.0.0.1", "10.0.0.1"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x", "0x"),
        ("-", [None]),
        ("1" * 41, "1" * 41),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("[a, {b: c}]", ["a", {"b": "c"}]),
        ("!!map {a: !!seq [b]}", {"a": ["b"]}),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert values(f"v: {text}" if text != "-" else "v:\n- ") == [{"v": value}]


def test_documents_are_counted_from_1_with_the_empty_ones() -> None:
    assert parse_documents("--- a\n---\n--- c\n...\n# end\n") == [
        Document(1, "a"),
        Document(2, None),
        Document(3, "c"),
    ]
    assert parse_documents("# nothing\n") == []


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("a: *b", "a", "the alias '*b' refers to nothing before it"),
        ("a: &b [*b]", "a[0]", "the alias '*b' refers to nothing before it"),
        ("a: !x b", "a", "the YAML tag '!x' is not allowed"),
        ("a: [!x {}]", "a[0]", "the YAML tag '!x' is not allowed"),
        (
            "!!python/object:os.system a",
            "",
            "the YAML tag 'tag:yaml.org,2002:python/object:os.system' is not allowed",
        ),
        ("a: {<<: {b: c}}", "a", "merge keys ('<<') are not supported"),
        ("? [a]\n: b", "", "a key must be text, not a list or a mapping"),
        ("a: &b [c]\n*b : d", "", "a key must be text, not a list"),
    ],
)
def test_what_ends_a_document(text: str, at: str, message: str) -> None:
    assert defects(text) == [(1, at, message)]
    assert parse_documents(f"{text}\n---\nb")[1] == Document(2, "b")


def test_keys_are_refused_without_ending_the_document() -> None:
    assert parse_documents('{a: {1: x, b/c: 1, yes: z, b/c: 2, "d": 3}, a: 4}') == [
        Document(
            1,
            {"a": {"b/c": 1, "d": 3}},
            (
                Defect(("a",), "a key must be text, not the number 1"),
                Defect(("a",), "a key must be text, not true"),
                Defect(("a", "b/c"), "the key is given twice"),
                Defect(("a",), "the key is given twice"),
            ),
        )
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: b: c",
            "line 1, column 5: not valid YAML: mapping values are not allowed in this context",
        ),
        (
            "x: 1\n\ta: 1",
            "line 2, column 1: not valid YAML: found a tab character that violates indentation"
            " while scanning a plain scalar",
        ),
        (
            "a: [1",
            "line 2, column 1: not valid YAML: did not find expected ',' or ']'"
            " while parsing a flow sequence",
        ),
        (
            'a: "\\ud800"',
            "line 1, column 7: not valid YAML: found invalid Unicode character escape code"
            " while parsing a quoted scalar",
        ),
    ],
)
def test_syntax_errors_have_line_and_column(text: str, message: str) -> None:
    assert parse_documents(f"--- a\n---\n--- {{}}\n...\n{text}")[:3] == [
        Document(1, "a"),
        Document(2, None),
        Document(3, {}),
    ]
    assert defects(text) == [(1, "", message)]


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\ufeff", "\ufffe"])
def test_characters_that_yaml_does_not_allow(character: str) -> None:
    code = f"U+{ord(character):04X}"
    message = f"line 2, column 4: character {code} is not allowed"
    assert defects(f"a: b\nc: {character}") == [(0, "", message)]


@pytest.mark.parametrize("piece", ["[", "{a: ", "- ", "? ", "[? ", "a:\n"])
def test_deep_nesting_is_refused_soon_and_does_not_end_the_process(piece: str) -> None:
    if piece == "a:\n":
        text = "".join(" " * depth + piece for depth in range(1000))
    else:
        text = piece * 100_000
    ((number, _, message),) = defects(text)
    assert number == 1
    assert message.startswith((f"nested deeper than {MAX_DEPTH}", "a key must be text"))


def test_nesting_up_to_the_bound_is_read() -> None:
    assert defects("[" * MAX_DEPTH + "]" * MAX_DEPTH) == []
    too_deep = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    assert defects(too_deep) == [(1, "[0][0][0][0]", f"nested deeper than {MAX_DEPTH} levels")]


def test_aliases_that_blow_up_are_refused() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    message = f"the document's aliases stand for more than {MAX_ALIASED} values"
    assert [(number, text) for number, _, text in defects(laughs)] == [(1, message)]


def test_anchors_end_with_their_document() -> None:
    assert defects("a: &x 1\n--- {b: *x}") == [
        (2, "b", "the alias '*x' refers to nothing before it")
    ]


@given(st.text())
def test_any_text_gives_documents_or_defects(text: str) -> None:
    for document in parse_documents(text):
        describe(document.value)


yaml_like = st.text(alphabet="ab:-[]{}&*!?|>'\"%#,.\n 019<~")


@given(yaml_like)
def test_any_yaml_like_text_gives_documents_or_defects(text: str) -> None:
    for document in parse_documents(text):
        describe(document.value)
