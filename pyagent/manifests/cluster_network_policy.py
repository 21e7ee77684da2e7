"""`policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`. Used by `kinds`.

Shape and limits are those of the network-policy-api's CustomResourceDefinition. What Sluice does
not enforce (peers by node or domain name) is refused.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from pyagent.manifests import names
from pyagent.manifests.network_policy import CidrText, SelectorSchema
from pyagent.manifests.schema import (
    NOT_YET,
    DnsSubdomain,
    Manifest,
    PortName,
    PortNumber,
    Schema,
    ServerMetadata,
    defect,
    raise_defects,
    refuse,
)
from pyagent.manifests.text import Defect, one_line, quote
from pyagent.model import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    IPBlock,
    LabelSelector,
    Origin,
    PolicyPeer,
    PolicyPort,
    Protocol,
    Tier,
)

_MOST = 25  # entries of every list
_MOST_PRIORITY = 1000
_LONGEST_NAME = 100

_Entry = TypeVar("_Entry")


def _check_some(entries: list[_Entry]) -> list[_Entry]:
    if not 1 <= len(entries) <= _MOST:
        raise ValueError(f"must have 1 to {_MOST} entries, not {len(entries)}")
    return entries


def _check_many(rules: list[_Entry]) -> list[_Entry]:
    if len(rules) > _MOST:
        raise ValueError(f"must have at most {_MOST} rules, not {len(rules)}")
    return rules


def _check_priority(number: int) -> int:
    if not 0 <= number <= _MOST_PRIORITY:
        raise ValueError(f"must be from 0 to {_MOST_PRIORITY}, not {number}")
    return number


def _check_name(text: str) -> str:
    if len(text) > _LONGEST_NAME:
        raise ValueError(f"must have at most {_LONGEST_NAME} characters, not {len(text)}")
    return text


def _check_distinct(networks: list[str]) -> list[str]:
    raise_defects(
        Defect((index,), f"{text} is given twice")
        for index, text in enumerate(networks)
        if text in networks[:index]
    )
    return networks


class _OneOf(Schema):
    """A mapping of which exactly one field is given."""

    @model_validator(mode="before")
    @classmethod
    def _check_one(cls, value: object) -> object:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        if isinstance(value, dict) and not value.keys() - set(known):
            given = [name for name in known if value.get(name) is not None]
            if len(given) != 1:
                raise ValueError(f"must have exactly one of {', '.join(known)}")
        return value


class NamespacedPodSchema(Schema):
    """`pods` of a subject or peer; without `namespaceSelector` it is every namespace."""

    namespace_selector: SelectorSchema | None = None
    pod_selector: SelectorSchema


class SubjectSchema(_OneOf):
    """`spec.subject`."""

    namespaces: SelectorSchema | None = None
    pods: NamespacedPodSchema | None = None

    def selectors(self) -> tuple[LabelSelector, LabelSelector]:
        """The selectors of namespaces and of pods."""
        namespaces = self.pods.namespace_selector if self.pods else self.namespaces
        pods = self.pods.pod_selector if self.pods else None
        every = SelectorSchema()
        return (namespaces or every).to_model(), (pods or every).to_model()

    def peers(self) -> list[PolicyPeer]:
        """What it stands for among the peers of a rule."""
        namespaces, pods = self.selectors()
        return [PolicyPeer(namespace_selector=namespaces, pod_selector=pods)]


class IngressPeerSchema(SubjectSchema):
    """One entry of `from`."""


class EgressPeerSchema(SubjectSchema):
    """One entry of `to`."""

    nodes: Annotated[Any, NOT_YET] = None
    networks: (
        Annotated[list[CidrText], AfterValidator(_check_some), AfterValidator(_check_distinct)]
        | None
    ) = None
    domain_names: Annotated[Any, NOT_YET] = None

    def peers(self) -> list[PolicyPeer]:
        """As above; each network is a peer."""
        if self.networks is None:
            return super().peers()
        return [PolicyPeer(ip_block=IPBlock(names.cidr(text))) for text in self.networks]


class PortRangeSchema(Schema):
    """`range` of a destination port."""

    start: PortNumber
    end: PortNumber

    @field_validator("end")
    @classmethod
    def _check_order(cls, end: int, info: ValidationInfo) -> int:
        start = info.data.get("start")
        if start is not None and end <= start:
            raise defect(f"must be above 'start' ({start}), but is {end}")
        return end


class PortSchema(_OneOf):
    """`destinationPort`."""

    number: PortNumber | None = None
    range: PortRangeSchema | None = None


class TransportSchema(Schema):
    """`tcp`, `udp` or `sctp` of a rule's protocols."""

    destination_port: PortSchema


class ProtocolSchema(_OneOf):
    """One entry of `protocols`."""

    tcp: TransportSchema | None = None
    udp: TransportSchema | None = None
    sctp: TransportSchema | None = None
    destination_named_port: PortName | None = None

    def to_model(self) -> PolicyPort:
        """The port."""
        for protocol in (Protocol.TCP, Protocol.UDP, Protocol.SCTP):
            transport: TransportSchema | None = getattr(self, protocol.name.lower())
            if transport is None:
                continue
            port = transport.destination_port
            if port.range is not None:
                return PolicyPort(protocol, port.range.start, port.range.end)
            return PolicyPort(protocol, port.number)
        return PolicyPort(Protocol.ANY, self.destination_named_port)


class _RuleSchema(Schema):
    """What rules of both directions have in common."""

    name: Annotated[str, AfterValidator(_check_name)] | None = None
    action: Literal["Accept", "Deny", "Pass"]
    protocols: Annotated[list[ProtocolSchema], AfterValidator(_check_some)] | None = None

    def rule(self, peers: list[PolicyPeer]) -> ClusterRule:
        """The rule for these peers."""
        return ClusterRule(
            peers=tuple(peers),
            ports=tuple(entry.to_model() for entry in self.protocols or ()),
            action=Action(self.action),
            name=one_line(self.name or ""),
        )


class IngressRule(_RuleSchema):
    """One entry of `spec.ingress`."""

    peers: Annotated[list[IngressPeerSchema], AfterValidator(_check_some)] = Field(alias="from")

    def to_model(self) -> ClusterRule:
        """The rule."""
        return self.rule(list(chain.from_iterable(peer.peers() for peer in self.peers)))


class EgressRule(_RuleSchema):
    """One entry of `spec.egress`."""

    peers: Annotated[list[EgressPeerSchema], AfterValidator(_check_some)] = Field(alias="to")

    @field_validator("peers")
    @classmethod
    def _check_named_ports(
        cls, peers: list[EgressPeerSchema], info: ValidationInfo
    ) -> list[EgressPeerSchema]:
        named = [
            entry.destination_named_port
            for entry in info.data.get("protocols") or ()
            if entry.destination_named_port is not None
        ]
        if named:
            message = f"no network has the named port {quote(named[0])} of 'protocols'"
            raise_defects(
                Defect((index, "networks"), message)
                for index, peer in enumerate(peers)
                if peer.networks is not None
            )
        return peers

    def to_model(self) -> ClusterRule:
        """The rule."""
        return self.rule(list(chain.from_iterable(peer.peers() for peer in self.peers)))


class ClusterPolicySpec(Schema):
    """`spec` of a ClusterNetworkPolicy."""

    tier: Literal["Admin", "Baseline"]
    priority: Annotated[int, AfterValidator(_check_priority)]
    subject: SubjectSchema
    ingress: Annotated[list[IngressRule], AfterValidator(_check_many)] | None = None
    egress: Annotated[list[EgressRule], AfterValidator(_check_many)] | None = None


class ClusterPolicyMetadata(ServerMetadata):
    """`metadata` of a ClusterNetworkPolicy."""

    name: DnsSubdomain
    namespace: Annotated[
        Any, refuse("a ClusterNetworkPolicy is not in a namespace; leave it out")
    ] = None


class ClusterPolicyManifest(Manifest):
    """The document."""

    metadata: ClusterPolicyMetadata
    spec: ClusterPolicySpec
    status: Any = None

    def to_model(self, origin: Origin) -> ClusterNetworkPolicy:
        """The policy."""
        namespaces, pods = self.spec.subject.selectors()
        return ClusterNetworkPolicy(
            name=self.metadata.name,
            tier=Tier(self.spec.tier),
            priority=self.spec.priority,
            namespace_selector=namespaces,
            pod_selector=pods,
            ingress=tuple(rule.to_model() for rule in self.spec.ingress or ()),
            egress=tuple(rule.to_model() for rule in self.spec.egress or ()),
            origin=origin,
        )
