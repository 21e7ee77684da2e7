"""One workload's manifest into a directory of manifests, and out of it. Called by `workload`.

A directory is changed only when it is valid before and after, and in one step.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pyagent.errors import InvalidState, SluiceError
from pyagent.manifests import dump_workload, load_directory
from pyagent.manifests.documents import parse_documents
from pyagent.manifests.files import read_manifest, show
from pyagent.manifests.snapshot import SnapshotBuilder
from pyagent.model import Origin, Snapshot, Workload


def add_workload(directory: Path, workload: Workload) -> Path:
    """Write `workload-NS-NAME.yaml`; returns its path.

    Raises InvalidState or SluiceError, and then nothing has changed.
    """
    path = directory / f"workload-{workload.namespace}-{workload.name}.yaml"
    snapshot = load_directory(directory)
    present = snapshot.workloads.get(workload.key)
    if present is not None:
        where = f"{present.origin.file}: document {present.origin.document}"
        raise SluiceError(f"workload {workload.key} is there already: {where}")
    text = dump_workload(workload)
    _check_beside(snapshot, _read_back(text, path))
    _put(path, text)
    return path


def delete_workload(directory: Path, key: str) -> Path:
    """Remove the file that holds one workload alone; returns its path.

    Raises InvalidState or SluiceError, and then nothing has changed.
    """
    workload = load_directory(directory).workloads.get(key)
    if workload is None:
        raise SluiceError(f"no workload {key} in {directory}")
    path = Path(workload.origin.file)
    documents = [
        document
        for document in parse_documents(read_manifest(path) or "")
        if document.value is not None or document.defects
    ]
    if len(documents) > 1:
        raise SluiceError(
            f"{path} holds other documents too: edit it and remove document "
            f"{workload.origin.document}, Workload {key}"
        )
    try:
        path.unlink()
    except OSError as error:
        raise SluiceError(f"{path}: cannot be removed: {_reason(error)}") from None
    return path


def _read_back(text: str, path: Path) -> Workload:
    """The workload as the agent will read it; InvalidState with the defects of its manifest."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "workload.yaml")
        copy.write_text(text, encoding="utf-8")
        try:
            [read] = load_directory(Path(folder)).workloads.values()
        except InvalidState as error:
            named = (replace(problem, file=show(path)) for problem in error.problems)
            raise InvalidState(tuple(named)) from None
    return replace(read, origin=Origin(show(path), 1))


def _check_beside(snapshot: Snapshot, workload: Workload) -> None:
    """Raises InvalidState with what contradicts the objects that are there."""
    builder = SnapshotBuilder()
    for present in snapshot.workloads.values():
        builder.add(present)
    problems = builder.add(workload)
    if problems:
        raise InvalidState(tuple(problems))


def _put(path: Path, text: str) -> None:
    """Put a file in place whole, and only where there is none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # hidden: the agent reads it not
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            path.hardlink_to(temporary)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except FileExistsError:
        raise SluiceError(f"{path}: the file is there already, with something else") from None
    except OSError as error:
        raise SluiceError(f"{path}: cannot be written: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "permission denied: run as root"
    return error.strerror or str(error)
