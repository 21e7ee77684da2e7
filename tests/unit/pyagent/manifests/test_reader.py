"""Reading again: what is read at the cost of its changes is what is read from nothing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyagent.errors import InvalidState
from pyagent.manifests import DirectoryReader, files, load_directory
from pyagent.manifests.documents import Document, parse_documents, split_documents
from pyagent.model import Snapshot


def workload(name: str, address: str, namespace: str = "shop") -> str:
    return (
        "apiVersion: sluice.dev/v1alpha1\nkind: Workload\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{interface: e-{name}, addresses: [{address}]}}\n"
    )


POOL = [
    *(workload(f"w{i}", f"10.0.{i}.1") for i in (1, 2, 3)),
    *(workload(f"b{i}", f"10.0.{i}.2", "bank") for i in (1, 2)),
    workload("w1", "10.0.0.9"),  # contradicts another w1
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: b}}\n",
    "apiVersion: sluice.dev/v1alpha1\nkind: Tenant\nmetadata: {name: shop}\n",
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {}\n",
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
    "metadata: {name: c}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}}\n",
    "# nothing\n",
    "- wrong\n",
    "a: [\n",
]
FILES = ("a.yaml", "b.yaml", "c.yml")


def outcome(read: DirectoryReader | Path) -> Snapshot | list[str]:
    """Return the snapshot, or the lines of the refusal."""
    try:
        return read.read() if isinstance(read, DirectoryReader) else load_directory(read)
    except InvalidState as error:
        return [str(problem) for problem in error.problems]


EDITS = st.tuples(
    st.sampled_from(FILES),
    st.one_of(st.none(), st.lists(st.sampled_from(POOL), max_size=5, unique=True)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(EDITS, min_size=1, max_size=8))
def test_any_history_of_edits_is_read_as_if_for_the_first_time(
    edits: list[tuple[str, list[str] | None]],
) -> None:
    folder = Path(tempfile.mkdtemp())
    reader = DirectoryReader(folder)
    try:
        for name, documents in edits:
            if documents is None:
                (folder / name).unlink(missing_ok=True)
            else:
                (folder / name).write_text("---\n".join(documents))
            assert outcome(reader) == outcome(folder)
    finally:
        shutil.rmtree(folder)


def test_unchanged_documents_are_the_same_objects(tmp_path: Path) -> None:
    reader = DirectoryReader(tmp_path)
    (tmp_path / "a.yaml").write_text("---\n".join(POOL[:3]))
    (tmp_path / "b.yaml").write_text(workload("other", "10.0.0.99"))
    before = reader.read()
    assert reader.read() is before
    (tmp_path / "a.yaml").write_text("---\n".join([POOL[0], POOL[3], POOL[2]]))
    after = reader.read()
    same = before.workloads.keys() & after.workloads.keys()
    assert same == {"shop/w1", "shop/w3", "shop/other"}
    assert all(after.workloads[key] is before.workloads[key] for key in same)
    assert after.namespaces["shop"] is before.namespaces["shop"]
    # and what was given before has not changed
    assert set(before.workloads) == {"shop/w1", "shop/w2", "shop/w3", "shop/other"}


def test_a_document_that_moved_has_its_new_place(tmp_path: Path) -> None:
    reader = DirectoryReader(tmp_path)
    (tmp_path / "a.yaml").write_text("---\n".join(POOL[:2]))
    reader.read()
    (tmp_path / "a.yaml").write_text("---\n".join([POOL[2], *POOL[:2]]))
    places = {key: found.origin.document for key, found in reader.read().workloads.items()}
    assert places == {"shop/w3": 1, "shop/w1": 2, "shop/w2": 3}


def test_a_change_of_the_same_size_a_moment_later_is_seen(tmp_path: Path) -> None:
    reader = DirectoryReader(tmp_path)
    for last in range(1, 10):
        (tmp_path / "a.yaml").write_text(workload("w", f"10.0.0.{last}"))
        (address,) = reader.read().workloads["shop/w"].addresses
        assert str(address) == f"10.0.0.{last}"


def test_a_file_that_has_not_changed_for_a_while_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CLOCK_STEPS", 0)  # else the file would have to be older
    path = tmp_path / "a.yaml"
    path.write_text(POOL[0])
    reader = DirectoryReader(tmp_path)
    before = reader.read()
    monkeypatch.setattr(files, "_read_bytes", None)  # opening it would fail
    assert reader.read() is before
    monkeypatch.undo()
    path.write_text(POOL[1])
    assert set(reader.read().workloads) == {"shop/w2"}


def test_a_refusal_changes_nothing_and_is_told_again(tmp_path: Path) -> None:
    reader = DirectoryReader(tmp_path)
    (tmp_path / "a.yaml").write_text(POOL[0])
    good = reader.read()
    (tmp_path / "b.yaml").write_text(POOL[0])
    for _ in range(2):
        with pytest.raises(InvalidState):
            reader.read()
    (tmp_path / "b.yaml").unlink()
    assert reader.read() == good


LINES = st.sampled_from(
    [
        "---",
        "--- a",
        "---b",
        "...",
        "%YAML 1.1",
        "# c",
        "a: 1",
        "- x",
        "b: |",
        "  ---",
        "c: 'd",
        "'",
    ]
)
OTHER_LINES = st.sampled_from(
    ["", "e: &x 1", "f: *x", "--- |", "--- >", "---\tq", "\u2028---", "--- # d"]
)
BREAKS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\x85"])


def parts(text: str) -> list[Document] | None:
    """Return the documents by parts, as the reader takes them; None where it doesn't."""
    found: list[Document] = []
    for part in split_documents(text):
        documents = parse_documents(part)
        if not documents and not found:
            continue
        if len(documents) != 1 or documents[0].defects:
            return None
        found.append(Document(len(found) + 1, documents[0].value))
    return found


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.tuples(LINES | OTHER_LINES, BREAKS), max_size=10))
def test_parts_are_the_documents_of_the_whole(lines: list[tuple[str, str]]) -> None:
    text = "".join(line + end for line, end in lines)
    by_parts = parts(text)
    assert by_parts is None or by_parts == parse_documents(text)
