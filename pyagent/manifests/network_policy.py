"""`networking.k8s.io/v1 NetworkPolicy`, whole. Used by `kinds`.

Defaults and rules are those of the Kubernetes API reference and of `ValidateNetworkPolicy`
(`pkg/apis/networking/validation`). As there, null and an empty list both mean "not given".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pyagent.manifests import names
from pyagent.manifests.schema import (
    DnsLabel,
    DnsSubdomain,
    LabelKey,
    LabelValue,
    Manifest,
    PortNumber,
    ProtocolName,
    Schema,
    ServerMetadata,
    defect,
    defect_of_parent,
    labels_of,
    protocol,
    raise_defects,
)
from pyagent.manifests.text import Defect, quote
from pyagent.model import (
    Direction,
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    Operator,
    Origin,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
)


def _check_cidr(text: str) -> str:
    names.cidr(text)
    return text


CidrText = Annotated[str, AfterValidator(_check_cidr)]


class RequirementSchema(Schema):
    """One entry of `matchExpressions`."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[LabelValue] | None = Field(default=None, validate_default=True)

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: list[str] | None, info: ValidationInfo) -> list[str] | None:
        operator = info.data.get("operator")
        if operator in ("In", "NotIn") and not values:
            raise defect(f"the operator {operator} needs at least one value")
        if operator in ("Exists", "DoesNotExist") and values:
            raise defect(f"the operator {operator} takes no values")
        return values

    def to_model(self) -> Requirement:
        """The requirement."""
        return Requirement(self.key, Operator(self.operator), tuple(self.values or ()))


class SelectorSchema(Schema):
    """`metav1.LabelSelector`."""

    match_labels: dict[LabelKey, LabelValue] | None = None
    match_expressions: list[RequirementSchema] | None = None

    def to_model(self) -> LabelSelector:
        """The selector."""
        expressions = tuple(entry.to_model() for entry in self.match_expressions or ())
        return LabelSelector(labels_of(self.match_labels), expressions)


def _except_defect(text: str, outer: str | None) -> str:
    try:
        inner = names.cidr(text)
    except ValueError as error:
        return str(error)
    if outer is not None and not names.inside(inner, names.cidr(outer)):
        return f"{text} must be a smaller block inside {outer}"
    return ""


class IPBlockSchema(Schema):
    """`ipBlock` of a peer."""

    cidr: CidrText
    excepts: list[str] | None = Field(default=None, alias="except")

    @field_validator("excepts")
    @classmethod
    def _check_excepts(cls, excepts: list[str] | None, info: ValidationInfo) -> list[str] | None:
        outer = info.data.get("cidr")
        found = ((index, _except_defect(text, outer)) for index, text in enumerate(excepts or ()))
        raise_defects(Defect((index,), message) for index, message in found if message)
        return excepts

    def to_model(self) -> IPBlock:
        """The block."""
        return IPBlock(names.cidr(self.cidr), tuple(map(names.cidr, self.excepts or ())))


class PeerSchema(Schema):
    """One entry of `from` or `to`."""

    pod_selector: SelectorSchema | None = None
    namespace_selector: SelectorSchema | None = None
    ip_block: IPBlockSchema | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_some(cls, value: object) -> object:
        if isinstance(value, dict) and all(part is None for part in value.values()):
            raise ValueError("must have a podSelector, a namespaceSelector or an ipBlock")
        return value

    @field_validator("ip_block")
    @classmethod
    def _check_alone(
        cls, ip_block: IPBlockSchema | None, info: ValidationInfo
    ) -> IPBlockSchema | None:
        # a selector that is missing from the data was given and is wrong
        selectors = (info.data.get(name, "") for name in ("pod_selector", "namespace_selector"))
        if ip_block is not None and any(selector is not None for selector in selectors):
            raise defect_of_parent("ipBlock cannot stand beside a selector; make them two peers")
        return ip_block

    def to_model(self) -> PolicyPeer:
        """The peer."""
        pods, namespaces, block = self.pod_selector, self.namespace_selector, self.ip_block
        return PolicyPeer(
            pod_selector=pods.to_model() if pods else None,
            namespace_selector=namespaces.to_model() if namespaces else None,
            ip_block=block.to_model() if block else None,
        )


class PortSchema(Schema):
    """One entry of `ports`."""

    protocol: ProtocolName | None = None
    port: Annotated[int | str, PlainValidator(names.number_or_port_name)] | None = None
    end_port: PortNumber | None = None

    @field_validator("end_port")
    @classmethod
    def _check_range(cls, end_port: int | None, info: ValidationInfo) -> int | None:
        if end_port is None or "port" not in info.data:
            return end_port
        match info.data["port"]:
            case None:
                raise defect("needs 'port', the first port of the range")
            case str() as name:
                raise defect(f"needs a number as 'port', not the name {quote(name)}")
            case int() as port if end_port < port:
                raise defect(f"must not be below 'port' ({port}), but is {end_port}")
        return end_port

    def to_model(self) -> PolicyPort:
        """The port."""
        return PolicyPort(protocol(self.protocol), self.port, self.end_port)


def _rule(peers: list[PeerSchema] | None, ports: list[PortSchema] | None) -> PolicyRule:
    return PolicyRule(
        tuple(peer.to_model() for peer in peers or ()),
        tuple(port.to_model() for port in ports or ()),
    )


class IngressRule(Schema):
    """One entry of `spec.ingress`."""

    peers: list[PeerSchema] | None = Field(default=None, alias="from")
    ports: list[PortSchema] | None = None


class EgressRule(Schema):
    """One entry of `spec.egress`."""

    peers: list[PeerSchema] | None = Field(default=None, alias="to")
    ports: list[PortSchema] | None = None


class PolicySpec(Schema):
    """`spec` of a NetworkPolicy; without `podSelector` it selects the whole namespace."""

    pod_selector: SelectorSchema | None = None
    policy_types: list[Literal["Ingress", "Egress"]] | None = None
    ingress: list[IngressRule] | None = None
    egress: list[EgressRule] | None = None

    @field_validator("policy_types")
    @classmethod
    def _check_count(cls, types: list[str] | None) -> list[str] | None:
        if len(types or ()) > 2:
            raise defect("must have at most two entries, 'Ingress' and 'Egress'")
        return types

    def directions(self) -> frozenset[Direction]:
        """`policyTypes` with its default: Ingress, and Egress if there are egress rules."""
        if self.policy_types:
            return frozenset(Direction[name.upper()] for name in self.policy_types)
        return frozenset(Direction) if self.egress else frozenset({Direction.INGRESS})


class PolicyMetadata(ServerMetadata):
    """`metadata` of a NetworkPolicy."""

    name: DnsSubdomain
    namespace: DnsLabel | None = None


class PolicyManifest(Manifest):
    """The document."""

    metadata: PolicyMetadata
    spec: PolicySpec
    status: Any = None

    def to_model(self, origin: Origin) -> NetworkPolicy:
        """The policy."""
        selector = self.spec.pod_selector or SelectorSchema()
        return NetworkPolicy(
            namespace=self.metadata.namespace or "default",
            name=self.metadata.name,
            pod_selector=selector.to_model(),
            directions=self.spec.directions(),
            ingress=tuple(_rule(rule.peers, rule.ports) for rule in self.spec.ingress or ()),
            egress=tuple(_rule(rule.peers, rule.ports) for rule in self.spec.egress or ()),
            origin=origin,
        )
