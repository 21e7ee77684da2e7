"""`v1 Namespace`. Used by `kinds`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ValidationInfo, field_validator

from pyagent.manifests.schema import (
    DnsLabel,
    Manifest,
    Schema,
    ServerMetadata,
    labels_of,
    raise_defects,
    refuse,
)
from pyagent.manifests.text import Defect, quote
from pyagent.model import Namespace, Origin

NAME_LABEL = "kubernetes.io/metadata.name"


class NamespaceMetadata(ServerMetadata):
    """`metadata` of a Namespace; its name label may be left out but not be wrong."""

    audited = True
    name: DnsLabel
    namespace: Annotated[Any, refuse("a Namespace is not in a namespace; leave it out")] = None

    @field_validator("labels")
    @classmethod
    def _check_name_label(
        cls, labels: dict[str, str] | None, info: ValidationInfo
    ) -> dict[str, str] | None:
        name = info.data.get("name")
        given = (labels or {}).get(NAME_LABEL, name)
        if name is not None and given != name:
            message = f"must be {quote(name)}, the namespace's name, or be left out"
            raise_defects([Defect((NAME_LABEL,), message)])
        return labels


class NamespaceSpec(Schema):
    """`spec` of a Namespace: only what the API server puts there."""

    finalizers: Any = None


class NamespaceManifest(Manifest):
    """The document."""

    metadata: NamespaceMetadata
    spec: NamespaceSpec | None = None
    status: Any = None

    def to_model(self, origin: Origin) -> Namespace:
        """The namespace with its name label."""
        labels = labels_of(self.metadata.labels)
        return make_namespace(self.metadata.name, labels, origin, self.metadata.audit)


def make_namespace(
    name: str, labels: dict[str, str], origin: Origin, audit: bool = False
) -> Namespace:
    """A namespace as Kubernetes would keep it, that is with the label that holds its name."""
    return Namespace(name, labels | {NAME_LABEL: name}, origin, audit)
