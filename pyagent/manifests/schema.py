"""What every kind's schema is made of: strict pydantic models, metadata, checked field types.

A schema's `to_model` turns what has been checked into values of `pyagent.model`. What pydantic
reports is put into words by `defects`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

from pyagent.manifests import names
from pyagent.manifests.text import Defect, quote
from pyagent.model import (
    ClusterNetworkPolicy,
    Namespace,
    NetworkPolicy,
    Origin,
    Protocol,
    Tenant,
    Workload,
)

Object = Namespace | Workload | NetworkPolicy | ClusterNetworkPolicy | Tenant

# Types of the errors that our own validators raise; the message stands in their context.
DEFECT = "sluice_defect"
DEFECT_OF_PARENT = "sluice_defect_of_parent"


def defect(message: str) -> PydanticCustomError:
    """An error about the validated value."""
    return PydanticCustomError("sluice_defect", "{message}", {"message": message})


def defect_of_parent(message: str) -> PydanticCustomError:
    """An error about the mapping that holds the validated value."""
    return PydanticCustomError("sluice_defect_of_parent", "{message}", {"message": message})


def raise_defects(defects: Iterable[Defect]) -> None:
    """Raise all of them from one validator, located relative to the validated value."""
    details = [
        InitErrorDetails(type=defect(message), loc=location, input=None)
        for location, message in defects
    ]
    if details:
        raise ValidationError.from_exception_data("manifest", details)


def refuse(message: str) -> BeforeValidator:
    """Marks a field that is known and must not be given; null counts as not given."""

    def check(value: object) -> None:
        if value is not None:
            raise defect(message)

    return BeforeValidator(check)


NOT_YET = refuse("valid, but not supported in this version; leave it out")

DnsLabel = Annotated[str, AfterValidator(names.dns_label)]
DnsSubdomain = Annotated[str, AfterValidator(names.dns_subdomain)]
LabelKey = Annotated[str, AfterValidator(names.label_key)]
LabelValue = Annotated[str, AfterValidator(names.label_value)]
AnnotationKey = Annotated[str, AfterValidator(names.annotation_key)]
PortName = Annotated[str, AfterValidator(names.port_name)]
PortNumber = Annotated[int, AfterValidator(names.port_number)]
AbsolutePath = Annotated[str, AfterValidator(names.absolute_path)]
ProtocolName = Literal["TCP", "UDP", "SCTP"]


def protocol(name: ProtocolName | None) -> Protocol:
    """The protocol of a port; TCP when it is left out, as in Kubernetes."""
    return Protocol[name or "TCP"]


class Schema(BaseModel):
    """A mapping of a manifest: camelCase keys, none but the declared ones, no conversions."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, validate_default=False
    )


class Metadata(Schema):
    """What every object's metadata may hold; `name` and `namespace` are narrowed by each kind."""

    name: Any
    namespace: Any = None
    labels: dict[LabelKey, LabelValue] | None = None
    annotations: dict[AnnotationKey, str] | None = None
    audited: ClassVar[bool] = False  # whether the kind may ask for audit instead of denial

    @field_validator("annotations")
    @classmethod
    def _check_audit(cls, annotations: dict[str, str] | None) -> dict[str, str] | None:
        asked = (annotations or {}).get(names.AUDIT)
        if asked is not None and not cls.audited:
            raise_defects([Defect((names.AUDIT,), "is for a Namespace or a Workload only")])
        if asked not in (None, "true", "false"):
            raise_defects(
                [Defect((names.AUDIT,), f"must be 'true' or 'false', not {quote(asked)}")]
            )
        return annotations

    @property
    def audit(self) -> bool:
        """Whether what policy denies passes, and is told of."""
        return (self.annotations or {}).get(names.AUDIT) == "true"


class ServerMetadata(Metadata):
    """Metadata as `kubectl get -o yaml` prints it: what the API server sets is of no interest."""

    uid: Any = None
    resource_version: Any = None
    generation: Any = None
    creation_timestamp: Any = None
    deletion_timestamp: Any = None
    deletion_grace_period_seconds: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    finalizers: Any = None
    self_link: Any = None


class Manifest(Schema):
    """A whole document, less `apiVersion` and `kind`, which chose the schema."""

    @abstractmethod
    def to_model(self, origin: Origin) -> Object:
        """The checked object."""


def labels_of(labels: Mapping[str, str] | None) -> dict[str, str]:
    """A copy of what the manifest says, empty for nothing."""
    return dict(labels or {})
