"""The texts that configure an Envoy, and a fingerprint of them. Used by `process`, `supervisor`.

Envoy's message classes take half a second to import, and an agent that only adopts what runs
needs none of them: the builders are imported when something is built, and the fingerprint tells
without building whether it would be as before.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import astuple, dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

from l7proxy.spec import ProxySpec

_MADE_WITH = ("betterproto2", "envoy-data-plane")


@dataclass(frozen=True, slots=True)
class Texts:
    """What the three files hold. `versions` are of the listeners and the clusters."""

    bootstrap: str
    listeners: str
    clusters: str
    versions: tuple[str, str]


@lru_cache(maxsize=64)
def texts(spec: ProxySpec) -> Texts:
    """Build them."""
    from l7proxy.bootstrap import bootstrap
    from l7proxy.clusters import clusters
    from l7proxy.listeners import listeners
    from l7proxy.xds import version_of

    both = listeners(spec), clusters(spec)
    return Texts(bootstrap(spec), *both, versions=(version_of(both[0]), version_of(both[1])))


def spec_hash(spec: ProxySpec) -> str:
    """Digest of what only a restart can change; the rest reaches a running Envoy by its files."""
    return _digest(
        texts(spec).bootstrap,
        spec.netns,
        spec.uid,
        spec.gid,
        spec.cgroup,
        os.path.realpath(spec.envoy),
        spec.concurrency,
    )


def fingerprint(spec: ProxySpec) -> str:
    """Digest of all that the texts and `spec_hash` follow from: equal ones give equal outcomes."""
    return _digest(astuple(spec), os.path.realpath(spec.envoy), _builders())


@cache
def _builders() -> str:
    """Digest of this package, and of what it builds with."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return _digest(*(path.read_text() for path in sources), *map(version, _MADE_WITH))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
