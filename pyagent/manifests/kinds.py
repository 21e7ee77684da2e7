"""Which schema a document has. Used by `directory`."""

from __future__ import annotations

from pydantic import ValidationError

from pyagent.manifests.cluster_network_policy import ClusterPolicyManifest
from pyagent.manifests.defects import defects_of
from pyagent.manifests.namespace import NamespaceManifest
from pyagent.manifests.network_policy import PolicyManifest
from pyagent.manifests.schema import Manifest, Object
from pyagent.manifests.tenant import TenantManifest
from pyagent.manifests.text import Defect, describe, quote
from pyagent.manifests.workload import API_VERSION, WorkloadManifest
from pyagent.model import Origin

_SCHEMAS: dict[str, tuple[str, type[Manifest]]] = {
    "Namespace": ("v1", NamespaceManifest),
    "NetworkPolicy": ("networking.k8s.io/v1", PolicyManifest),
    "ClusterNetworkPolicy": ("policy.networking.k8s.io/v1alpha2", ClusterPolicyManifest),
    "Workload": (API_VERSION, WorkloadManifest),
    "Tenant": (API_VERSION, TenantManifest),
}
# Kinds of the design whose turn has not come: kind -> group (the core group being "").
_NOT_YET = {
    "Service": "",
    "Secret": "",
    "EndpointSlice": "discovery.k8s.io",
    "HTTPRoute": "gateway.networking.k8s.io",
    "GRPCRoute": "gateway.networking.k8s.io",
    "AuthorizationPolicy": "security.istio.io",
}


def read_object(document: object, origin: Origin) -> tuple[Object | None, list[Defect]]:
    """The object that a document describes, or every defect found in it."""
    if not isinstance(document, dict):
        return None, [
            Defect((), f"must be a mapping with apiVersion and kind, not {describe(document)}")
        ]
    defects = type_defects(document)
    if defects:
        return None, defects
    schema = _schema_for(document["apiVersion"], document["kind"])
    if isinstance(schema, Defect):
        return None, [schema]
    try:
        return schema.model_validate(body(document)).to_model(origin), []
    except ValidationError as error:
        return None, defects_of(error, schema)


def type_defects(document: dict[str, object]) -> list[Defect]:
    """What is wrong with `apiVersion` and `kind` as such."""
    defects = []
    for key in ("apiVersion", "kind"):
        value = document.get(key)
        if value is None:
            defects.append(Defect((key,), "is required"))
        elif not isinstance(value, str):
            defects.append(Defect((key,), f"must be text, not {describe(value)}"))
    return defects


def body(document: dict[str, object]) -> dict[str, object]:
    """The document without the two fields that chose its schema."""
    return {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}


def _schema_for(api_version: str, kind: str) -> type[Manifest] | Defect:
    if kind in _SCHEMAS:
        expected, schema = _SCHEMAS[kind]
        if api_version == expected:
            return schema
        return Defect(("apiVersion",), f"must be '{expected}' for {kind}, not {quote(api_version)}")
    if kind == "AgentConfig":
        return Defect(("kind",), "AgentConfig belongs into a file of its own, not here")
    if _NOT_YET.get(kind) == api_version.rpartition("/")[0]:
        return Defect(("kind",), f"{kind} is not supported in this version")
    return Defect(("kind",), f"unknown kind {quote(kind)} (known: {', '.join(_SCHEMAS)})")
