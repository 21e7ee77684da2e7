"""`sluice.dev/v1alpha1 Tenant`. Used by `kinds`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import field_validator

from pyagent.manifests.schema import (
    NOT_YET,
    DnsLabel,
    Manifest,
    Metadata,
    PortNumber,
    Schema,
    defect,
    raise_defects,
    refuse,
)
from pyagent.manifests.text import Defect
from pyagent.model import FailureMode, Origin, Placement, Tenant


class TenantMetadata(Metadata):
    """`metadata` of a Tenant."""

    name: DnsLabel
    namespace: Annotated[
        Any, refuse("a Tenant is not in a namespace: metadata.name is the namespace")
    ] = None


class HttpPort(Schema):
    """One entry of `spec.http`."""

    port: PortNumber


class TenantSpec(Schema):
    """`spec` of a Tenant."""

    placement: Literal["tenant", "workload", "node"] | None = None
    failure_mode: Literal["closed", "open"] | None = None
    http: list[HttpPort] | None = None
    resources: Annotated[Any, NOT_YET] = None
    detect: Annotated[Any, NOT_YET] = None
    tls: Annotated[Any, NOT_YET] = None

    @field_validator("placement")
    @classmethod
    def _check_placement(cls, placement: str | None) -> str | None:
        if placement in ("workload", "node"):
            raise defect(f"'{placement}' is not supported yet; use 'tenant'")
        return placement

    @field_validator("http")
    @classmethod
    def _check_ports(cls, http: list[HttpPort] | None) -> list[HttpPort] | None:
        given = [entry.port for entry in http or ()]
        raise_defects(
            Defect((index, "port"), f"the port {port} is given twice")
            for index, port in enumerate(given)
            if port in given[:index]
        )
        return http


class TenantManifest(Manifest):
    """The document; without `spec`, a tenant with every default."""

    metadata: TenantMetadata
    spec: TenantSpec | None = None

    def to_model(self, origin: Origin) -> Tenant:
        """The tenant."""
        spec = self.spec or TenantSpec()
        return Tenant(
            name=self.metadata.name,
            placement=Placement(spec.placement or "tenant"),
            failure_mode=FailureMode(spec.failure_mode or "closed"),
            http_ports=frozenset(entry.port for entry in spec.http or ()),
            origin=origin,
        )
