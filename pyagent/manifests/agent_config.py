"""`sluice.dev/v1alpha1 AgentConfig`, in a file of its own. Called by the command line."""

from __future__ import annotations

import socket
from dataclasses import fields
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ValidationError, create_model

from pyagent.config import AgentConfig, MapSizes, NodeTraffic
from pyagent.errors import InvalidState, Problem
from pyagent.manifests import names
from pyagent.manifests.defects import defects_of
from pyagent.manifests.documents import parse_documents
from pyagent.manifests.files import Unreadable, read_text, show
from pyagent.manifests.kinds import body, type_defects
from pyagent.manifests.schema import AbsolutePath, DnsSubdomain, Metadata, Schema, refuse
from pyagent.manifests.text import Defect, describe, quote, to_problems
from pyagent.manifests.workload import API_VERSION

_MOST_ENTRIES = 1 << 24
_EVENTS_LEAST, _EVENTS_MOST = 1 << 12, 1 << 30


def _map_entries(number: int) -> int:
    if not 1 <= number <= _MOST_ENTRIES:
        raise ValueError(f"must be from 1 to {_MOST_ENTRIES} entries, not {number}")
    return number


def _event_bytes(number: int) -> int:
    if not _EVENTS_LEAST <= number <= _EVENTS_MOST or number & (number - 1):
        raise ValueError(
            f"must be a power of two from {_EVENTS_LEAST} to {_EVENTS_MOST} bytes, not {number}"
        )
    return number


def _host_port(text: str) -> str:
    """HOST:PORT, an IPv6 host in brackets; empty for off."""
    host, _, port = text.rpartition(":")
    try:
        if text:
            if host.startswith("[") and host.endswith("]"):
                IPv6Address(host[1:-1])
            else:
                names.dns_subdomain(host.lower())
            names.port_number(int(port) if port.isascii() and port.isdecimal() else 0)
    except ValueError:
        raise ValueError(
            f"must be HOST:PORT such as 127.0.0.1:9464, or '' for off, not {quote(text)}"
        ) from None
    return text


def _path_text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(f"must be a path, not {quote(text)}")
    return text


_MapEntries = Annotated[int, AfterValidator(_map_entries)]
_EventBytes = Annotated[int, AfterValidator(_event_bytes)]


class ConfigMetadata(Metadata):
    """`metadata` of an AgentConfig."""

    name: DnsSubdomain | None = None
    namespace: Annotated[Any, refuse("an AgentConfig is not in a namespace; leave it out")] = None


class SourceSpec(Schema):
    """`spec.source`."""

    directory: Annotated[str, AfterValidator(_path_text)]


class MetricsSpec(Schema):
    """`spec.metrics`; an address that is null or "" turns metrics off."""

    address: Annotated[str, AfterValidator(_host_port)] | None = None


_SIZES: dict[str, Any] = {
    size.name: (_EventBytes if size.name == "events" else _MapEntries, size.default)
    for size in fields(MapSizes)
}
if TYPE_CHECKING:  # a type checker cannot see through create_model
    MapSizesSpec = Schema
else:
    MapSizesSpec = create_model("MapSizesSpec", __base__=Schema, **_SIZES)


class ConfigSpec(Schema):
    """`spec` of an AgentConfig."""

    node: DnsSubdomain | None = None
    source: SourceSpec
    state_dir: AbsolutePath | None = None
    run_dir: AbsolutePath | None = None
    cgroup: AbsolutePath | None = None
    metrics: MetricsSpec | None = None
    node_traffic: Literal["allow", "policy"] | None = None
    map_sizes: MapSizesSpec | None = None


class ConfigDocument(Schema):
    """The document, less `apiVersion` and `kind`."""

    metadata: ConfigMetadata | None = None
    spec: ConfigSpec


def load_agent_config(path: Path) -> AgentConfig:
    """The agent's configuration. Raises InvalidState with every defect found.

    A relative `source.directory` counts from the file's own folder.
    """
    try:
        text = read_text(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        reason = error.strerror or "Is a directory"
        raise InvalidState((Problem(show(path), 0, "", f"cannot be read: {reason}"),)) from error
    except Unreadable as error:
        raise InvalidState((Problem(show(path), 0, "", str(error)),)) from error
    documents = [d for d in parse_documents(text) if d.value is not None or d.defects]
    problems = [p for d in documents for p in to_problems(show(path), d.number, d.defects)]
    if not problems and len(documents) != 1:
        message = f"must hold one AgentConfig, not {len(documents)} documents"
        problems.append(Problem(show(path), 0, "", message))
    if problems:
        raise InvalidState(tuple(problems))
    return _read_config(documents[0].value, documents[0].number, path)


def _read_config(document: object, number: int, path: Path) -> AgentConfig:
    defects = _kind_defects(document)
    if not defects:
        assert isinstance(document, dict)
        try:
            return _to_config(ConfigDocument.model_validate(body(document)).spec, path.parent)
        except ValidationError as error:
            defects = defects_of(error, ConfigDocument)
    raise InvalidState(tuple(to_problems(show(path), number, defects)))


def _kind_defects(document: object) -> list[Defect]:
    if not isinstance(document, dict):
        return [Defect((), f"must be a mapping with apiVersion and kind, not {describe(document)}")]
    return type_defects(document) or [
        Defect((key,), f"must be '{expected}', not {quote(document[key])}")
        for key, expected in (("apiVersion", API_VERSION), ("kind", "AgentConfig"))
        if document[key] != expected
    ]


def _to_config(spec: ConfigSpec, folder: Path) -> AgentConfig:
    given: dict[str, Any] = {}
    if spec.state_dir is not None:
        given["state_dir"] = Path(spec.state_dir)
    if spec.run_dir is not None:
        given["run_dir"] = Path(spec.run_dir)
    if spec.cgroup is not None:
        given["cgroup"] = Path(spec.cgroup)
    if spec.metrics is not None and "address" in spec.metrics.model_fields_set:
        given["metrics_address"] = spec.metrics.address or None
    if spec.node_traffic is not None:
        given["node_traffic"] = NodeTraffic(spec.node_traffic)
    if spec.map_sizes is not None:
        given["map_sizes"] = MapSizes(**spec.map_sizes.model_dump())
    return AgentConfig(
        node=spec.node or socket.gethostname(),
        source_directory=(folder / spec.source.directory).absolute(),
        **given,
    )
