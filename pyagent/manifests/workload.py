"""`sluice.dev/v1alpha1 Workload`, both ways: `kinds` reads it, `dump_workload` writes it."""

from __future__ import annotations

from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from pyagent.manifests import names
from pyagent.manifests.documents import resolve_plain
from pyagent.manifests.schema import (
    AbsolutePath,
    DnsLabel,
    DnsSubdomain,
    Manifest,
    Metadata,
    PortName,
    PortNumber,
    ProtocolName,
    Schema,
    defect_of_parent,
    labels_of,
    protocol,
    raise_defects,
)
from pyagent.manifests.text import Defect, quote
from pyagent.model import NamedPort, Origin, Workload

API_VERSION = "sluice.dev/v1alpha1"


def _check_address(text: str) -> str:
    names.workload_address(text)  # to_model makes the value of it
    return text


AddressText = Annotated[str, AfterValidator(_check_address)]
InterfaceName = Annotated[str, AfterValidator(names.interface_name)]


class WorkloadMetadata(Metadata):
    """`metadata` of a Workload."""

    audited = True
    name: DnsSubdomain
    namespace: DnsLabel | None = None


class WorkloadPort(Schema):
    """One entry of `spec.ports`."""

    name: PortName
    port: PortNumber
    protocol: ProtocolName | None = None


class WorkloadSpec(Schema):
    """`spec` of a Workload."""

    interface: InterfaceName | None = None
    # validated also when it is left out: this is where the choice between the two is judged
    netns: AbsolutePath | None = Field(default=None, validate_default=True)
    addresses: list[AddressText]
    ports: list[WorkloadPort] | None = None

    @field_validator("netns")
    @classmethod
    def _check_choice(cls, netns: str | None, info: ValidationInfo) -> str | None:
        if "interface" in info.data:  # else it is given and wrong, which has been told
            interface = info.data["interface"]
            if netns is None and interface is None:
                raise defect_of_parent("one of 'interface' and 'netns' is required")
            if netns is not None and interface is not None:
                raise defect_of_parent("give either 'interface' or 'netns', not both")
        return netns

    @field_validator("addresses")
    @classmethod
    def _check_some(cls, addresses: list[str]) -> list[str]:
        if not addresses:
            raise ValueError("must have at least one address")
        return addresses

    @field_validator("ports")
    @classmethod
    def _check_port_names(cls, ports: list[WorkloadPort] | None) -> list[WorkloadPort] | None:
        given = [port.name for port in ports or ()]
        raise_defects(
            Defect((index, "name"), f"the name {quote(name)} is given twice")
            for index, name in enumerate(given)
            if name in given[:index]
        )
        return ports


class WorkloadManifest(Manifest):
    """The document."""

    metadata: WorkloadMetadata
    spec: WorkloadSpec

    def to_model(self, origin: Origin) -> Workload:
        """The workload."""
        return Workload(
            namespace=self.metadata.namespace or "default",
            name=self.metadata.name,
            labels=labels_of(self.metadata.labels),
            addresses=tuple(names.workload_address(text) for text in self.spec.addresses),
            ports=tuple(
                NamedPort(port.name, port.port, protocol(port.protocol))
                for port in self.spec.ports or ()
            ),
            interface=self.spec.interface,
            netns=self.spec.netns,
            origin=origin,
            audit=self.metadata.audit,
        )


def dump_workload(workload: Workload) -> str:
    """The manifest of a workload; `load_directory` reads it back to an equal value."""
    metadata: dict[str, object] = {"name": workload.name, "namespace": workload.namespace}
    if workload.labels:
        metadata["labels"] = dict(workload.labels)
    if workload.audit:
        metadata["annotations"] = {names.AUDIT: "true"}
    spec: dict[str, object] = {}
    if workload.interface is not None:
        spec["interface"] = workload.interface
    if workload.netns is not None:
        spec["netns"] = workload.netns
    spec["addresses"] = [str(address) for address in workload.addresses]
    if workload.ports:
        spec["ports"] = [
            {"name": port.name, "port": port.port, "protocol": port.protocol.name}
            for port in workload.ports
        ]
    document = {"apiVersion": API_VERSION, "kind": "Workload", "metadata": metadata, "spec": spec}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.CSafeDumper):
    """Quotes every text that `documents` would read as something else."""


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.Node:
    style = None if resolve_plain(text) == text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
