"""The watched directory: every way of changing it brings a notice, soon and never stale."""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyagent.errors import InvalidState
from pyagent.sources import DirectorySource, Source

BOUND = 10.0  # seconds that a test waits for what must happen


def namespace(name: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n"


class Consumer:
    """Does as the agent does: takes a notice, reads a snapshot, keeps the last good one."""

    def __init__(self, path: Path) -> None:
        self.source: Source = DirectorySource(path)
        self.stop = threading.Event()
        self.noticed: list[float] = []
        self.names: list[str] = []
        self.errors = 0
        self.busy = threading.Event()  # set: does not take the next notice
        self._news = threading.Condition()
        changes = self.source.changes(self.stop)
        self.read()
        self.thread = threading.Thread(target=self._run, args=(changes,))
        self.thread.start()

    def read(self) -> None:
        try:
            self.names = sorted(self.source.snapshot().namespaces)
        except InvalidState:
            self.errors += 1

    def _run(self, changes: Iterator[None]) -> None:
        for _ in changes:
            at = time.perf_counter()
            while self.busy.is_set():
                self.stop.wait(0.001)
            with self._news:
                self.read()
                self.noticed.append(at)
                self._news.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(condition, BOUND), (self.names, self.errors)

    def wait_for_names(self, *names: str) -> None:
        self.wait_for(lambda: self.names == list(names))

    def close(self) -> None:
        self.busy.clear()
        self.stop.set()
        self.thread.join(BOUND)
        assert not self.thread.is_alive()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    return path


@pytest.fixture
def consumer(folder: Path) -> Iterator[Consumer]:
    (folder / "a.yaml").write_text(namespace("first"))
    consumer = Consumer(folder)
    yield consumer
    consumer.close()


def test_writing_adding_and_removing_files(consumer: Consumer, folder: Path) -> None:
    assert consumer.names == ["first"]
    (folder / "a.yaml").write_text(namespace("second"))
    consumer.wait_for_names("second")
    (folder / "b.yml").write_text(namespace("third"))
    consumer.wait_for_names("second", "third")
    (folder / "a.yaml").unlink()
    consumer.wait_for_names("third")
    (folder / "b.yml").rename(folder / "b.txt")
    consumer.wait_for_names()


def test_an_editor_replaces_the_file(consumer: Consumer, folder: Path) -> None:
    for name in ("one", "two", "three"):
        (folder / ".a.yaml.tmp").write_text(namespace(name))
        (folder / ".a.yaml.tmp").replace(folder / "a.yaml")
        consumer.wait_for_names(name)


def test_a_file_written_in_pieces_is_whole_in_the_end(consumer: Consumer, folder: Path) -> None:
    text = namespace("whole")
    with (folder / "b.yaml").open("w") as file:
        file.write(text[:20])
        file.flush()
        consumer.wait_for(lambda: consumer.errors > 0)
        assert consumer.names == ["first"]
        file.write(text[20:])
    consumer.wait_for_names("first", "whole")


def test_a_change_of_permissions_is_a_change(consumer: Consumer, folder: Path) -> None:
    before = len(consumer.noticed)
    (folder / "a.yaml").chmod(0o600)
    consumer.wait_for(lambda: len(consumer.noticed) > before)


def test_a_config_map_is_swapped(tmp_path: Path, folder: Path) -> None:
    def swap(version: str) -> None:
        (folder / f"..{version}").mkdir()
        (folder / f"..{version}" / "a.yaml").write_text(namespace(version))
        (folder / "..data_tmp").symlink_to(f"..{version}")
        (folder / "..data_tmp").replace(folder / "..data")

    swap("v1")
    (folder / "a.yaml").symlink_to("..data/a.yaml")
    consumer = Consumer(folder)
    try:
        assert consumer.names == ["v1"]
        for old, new in (("v1", "v2"), ("v2", "v3")):
            swap(new)
            shutil.rmtree(folder / f"..{old}")
            consumer.wait_for_names(new)
    finally:
        consumer.close()


def test_a_file_behind_a_link_is_followed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real"
    target.write_text(namespace("one"))
    consumer = Consumer(folder)
    try:
        (folder / "a.yaml").symlink_to(target)
        consumer.wait_for_names("one")
        target.write_text(namespace("two"))
        consumer.wait_for_names("two")
    finally:
        consumer.close()


def test_the_directory_is_deleted_and_comes_back(consumer: Consumer, folder: Path) -> None:
    shutil.rmtree(folder)
    consumer.wait_for(lambda: consumer.errors > 0)
    folder.mkdir()
    (folder / "a.yaml").write_text(namespace("back"))
    consumer.wait_for_names("back")
    (folder / "a.yaml").write_text(namespace("again"))
    consumer.wait_for_names("again")


def test_the_directory_is_replaced_by_another(consumer: Consumer, folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    (other / "a.yaml").write_text(namespace("other"))
    folder.rename(folder.with_name("old"))
    other.rename(folder)
    consumer.wait_for_names("other")
    (folder / "a.yaml").write_text(namespace("changed"))
    consumer.wait_for_names("changed")


def test_the_directory_is_a_link_that_is_turned(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(namespace(name))
    link = tmp_path / "link"
    link.symlink_to("one")
    consumer = Consumer(link)
    try:
        assert consumer.names == ["one"]
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(link)
        consumer.wait_for_names("two")
        (tmp_path / "two" / "a.yaml").write_text(namespace("three"))
        consumer.wait_for_names("three")
    finally:
        consumer.close()


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    consumer = Consumer(tmp_path / "later")
    try:
        assert consumer.errors == 1
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "a.yaml").write_text(namespace("later"))
        consumer.wait_for_names("later")
    finally:
        consumer.close()


def test_no_change_is_missed_while_the_consumer_is_busy(consumer: Consumer, folder: Path) -> None:
    for round_ in range(30):
        consumer.busy.set()
        for number in range(3):
            (folder / "a.yaml").write_text(namespace(f"n{round_}-{number}"))
        consumer.busy.clear()
        consumer.wait_for_names(f"n{round_}-2")


def test_a_burst_is_one_notice(consumer: Consumer, folder: Path) -> None:
    consumer.busy.set()
    (folder / "a.yaml").write_text(namespace("begin"))
    for number in range(200):
        (folder / f"{number}.yaml").write_text(namespace(f"n{number}"))
    consumer.busy.clear()
    consumer.wait_for(lambda: len(consumer.names) == 201)
    # the first write may have been a burst of its own, and the last one may come late
    assert len(consumer.noticed) <= 3


def test_a_change_between_a_snapshot_and_the_watch_is_noticed(folder: Path) -> None:
    source = DirectorySource(folder)
    assert source.snapshot().namespaces == {}
    (folder / "a.yaml").write_text(namespace("between"))
    stop = threading.Event()
    timer = threading.Timer(BOUND, stop.set)
    timer.start()
    try:
        for _ in source.changes(stop):
            if "between" in source.snapshot().namespaces:
                break
        assert not stop.is_set()
    finally:
        timer.cancel()


@pytest.mark.parametrize("missing", [False, True])
def test_stop_ends_the_iteration_soon_and_without_a_notice(folder: Path, missing: bool) -> None:
    if missing:
        folder.rmdir()
    stop = threading.Event()
    changes = DirectorySource(folder).changes(stop)
    notices: list[None] = []
    thread = threading.Thread(target=lambda: notices.extend(changes))
    thread.start()
    stop.set()
    thread.join(2)
    assert not thread.is_alive()
    assert notices == []


def test_nothing_is_noticed_when_nothing_changes(consumer: Consumer, folder: Path) -> None:
    for _ in range(20):
        consumer.source.snapshot()  # reading is no change
    (folder / "a.yaml").write_text(namespace("last"))
    consumer.wait_for_names("last")
    assert len(consumer.noticed) <= 2  # truncation and data can be two bursts


def test_latency(
    consumer: Consumer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latencies = []
    for number in range(50):
        new = tmp_path / "new"  # not in the watched directory
        new.write_text(namespace(f"n{number}"))
        start = time.perf_counter()
        new.replace(folder / "a.yaml")
        consumer.wait_for_names(f"n{number}")
        latencies.append(consumer.noticed[-1] - start)
    median, most = statistics.median(latencies) * 1000, max(latencies) * 1000
    with capsys.disabled():
        print(f"\nnotice after {median:.1f} ms (median), {most:.1f} ms (most)")
    assert median < 100  # about 8 on a quiet machine
