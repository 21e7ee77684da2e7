"""Writing Envoy's messages as JSON, and resources as the files that Envoy watches.

Pure. `envoy_data_plane` holds for every message used here: its JSON is protobuf's own mapping,
which Envoy reads, and an Any carries its "@type".
"""

from __future__ import annotations

import hashlib
import json

from betterproto2 import Message

from l7proxy.http_options import pack


def as_json(message: Message) -> str:
    """The message in protobuf's JSON mapping, readable, ending in a newline."""
    return json.dumps(message.to_dict(), indent=1) + "\n"


def resources(messages: list[Message]) -> str:
    """A discovery response with these resources.

    Its version is a digest of them: Envoy repeats the version that it accepted last, which tells
    whether a file is in force.
    """
    packed = [pack(message).to_dict() for message in messages]
    version = hashlib.sha256(json.dumps(packed, sort_keys=True).encode()).hexdigest()[:16]
    # envoy.service.discovery.v3.DiscoveryResponse; turning the resources into JSON takes long
    # enough not to do it twice.
    return json.dumps({"versionInfo": version, "resources": packed}, indent=1) + "\n"


def version_of(text: str) -> str:
    """The version that `resources` put into this text."""
    return str(json.loads(text)["versionInfo"])
