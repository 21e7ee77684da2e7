"""The rules for names, labels, ports and addresses. Used by the schemas.

Each function returns its argument (or what it stands for) or raises ValueError saying what is
allowed. The rules are those of Kubernetes' apimachinery `validation` package (RFC 1123 names,
label keys and values, RFC 6335 port names) and of Linux' `dev_valid_name`.
"""

from __future__ import annotations

import posixpath
import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from pyagent.manifests.text import describe, quote
from pyagent.model import Address, Network

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")
_CIDR = re.compile(r"[0-9a-fA-F.:]+/(?:0|[1-9][0-9]{0,2})")
AUDIT = "sluice.dev/policy-audit"
_MAPPED = IPv6Network("::ffff:0:0/96")


def dns_label(text: str) -> str:
    """RFC 1123 label, as names of namespaces are."""
    if len(text) > 63 or not _DNS_LABEL.fullmatch(text):
        raise ValueError(
            "must be at most 63 lowercase letters, digits and '-', beginning and ending with a"
            f" letter or digit, not {quote(text)}"
        )
    return text


def dns_subdomain(text: str) -> str:
    """RFC 1123 subdomain, as names of most objects are."""
    if len(text) > 253 or not _DNS_SUBDOMAIN.fullmatch(text):
        raise ValueError(
            "must be at most 253 lowercase letters, digits, '-' and '.', each part beginning and"
            f" ending with a letter or digit, not {quote(text)}"
        )
    return text


def label_key(text: str) -> str:
    """Key of a label or annotation: a name, optionally behind a DNS prefix and a slash."""
    prefix, slash, name = text.rpartition("/")
    if len(name) > 63 or not _QUALIFIED.fullmatch(name):
        raise ValueError(
            f"the key {quote(text)} must be at most 63 letters, digits, '-', '_' and '.',"
            " beginning and ending with a letter or digit (a DNS prefix and '/' may stand before)"
        )
    if slash and (len(prefix) > 253 or not _DNS_SUBDOMAIN.fullmatch(prefix)):
        raise ValueError(f"the key {quote(text)} must have a lowercase DNS name before the '/'")
    return text


def annotation_key(text: str) -> str:
    """Key of an annotation; capitals are allowed in its prefix. `sluice.dev/` is ours."""
    label_key(text.lower())
    if text.startswith("sluice.dev/") and text != AUDIT:
        raise ValueError(f"unknown annotation {quote(text)}")
    return text


def label_value(text: str) -> str:
    """Value of a label; may be empty."""
    if text and (len(text) > 63 or not _QUALIFIED.fullmatch(text)):
        raise ValueError(
            "must be empty or at most 63 letters, digits, '-', '_' and '.', beginning and ending"
            f" with a letter or digit, not {quote(text)}"
        )
    return text


def port_name(text: str) -> str:
    """Name of a port (IANA service name, RFC 6335 section 5.1)."""
    if len(text) > 15 or not _PORT_NAME.fullmatch(text):
        raise ValueError(
            "must be at most 15 lowercase letters, digits and single '-', with at least one"
            f" letter, not {quote(text)}"
        )
    return text


def port_number(number: int) -> int:
    """A TCP, UDP or SCTP port."""
    if not 1 <= number <= 65535:
        raise ValueError(f"must be from 1 to 65535, not {number}")
    return number


def number_or_port_name(value: object) -> int | str:
    """Kubernetes' IntOrString as NetworkPolicy uses it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return port_number(value)
    if isinstance(value, str):
        if value.isdecimal():
            raise ValueError(
                f"must be a number or a port's name, not {quote(value)} (leave out the quotes)"
            )
        return port_name(value)
    raise ValueError(f"must be a number or a port's name, not {describe(value)}")


def interface_name(text: str) -> str:
    """Name of a network interface (Linux `dev_valid_name`, less what is not printable ASCII)."""
    allowed = 1 <= len(text) <= 15 and text.isascii() and text.isprintable()
    if not allowed or text in (".", "..") or any(c in " /:" for c in text):
        raise ValueError(
            "must be an interface name of 1 to 15 characters without spaces, '/' and ':', not "
            + quote(text)
        )
    if text == "lo":
        raise ValueError("must not be the loopback interface")
    return text


def absolute_path(text: str) -> str:
    """An absolute path in its plain form, so that two spellings of one path are seen as one."""
    plain = text.isprintable() and not text.startswith("//") and posixpath.normpath(text) == text
    if not text.startswith("/") or not plain or len(text.encode()) > 4095:
        raise ValueError(
            "must be an absolute path without '.', '..', '//' and a '/' at its end, not "
            + quote(text)
        )
    return text


def workload_address(text: str) -> Address:
    """An address that a workload can own: unicast, and valid beyond its own link."""
    address = _address(text)
    for wrong, what in (
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.is_link_local, "a link-local address"),
        (address.is_multicast, "a multicast address"),
        (address == IPv4Address("255.255.255.255"), "the broadcast address"),
    ):
        if wrong:
            raise ValueError(f"must be a unicast address of the workload, not {what} ({text})")
    return address


def _address(text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"must be an IPv4 or IPv6 address, not {quote(text)}") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"must be an address without a zone, not {quote(text)}")
        if address.ipv4_mapped is not None:
            raise ValueError(f"write the IPv4 address {address.ipv4_mapped} as IPv4")
    return address


def cidr(text: str) -> Network:
    """A CIDR block; bits beyond the prefix are cleared, as Kubernetes does."""
    try:
        if not _CIDR.fullmatch(text):
            raise ValueError
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"must be a CIDR block such as 10.0.0.0/8 or fd00::/8, not {quote(text)}"
        ) from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError(f"write the IPv4 block {quote(text)} as IPv4")
    return network


def inside(inner: Network, outer: Network) -> bool:
    """Whether `inner` is a strict part of `outer`; blocks of two IP versions never are."""
    if inner.version != outer.version or inner.prefixlen <= outer.prefixlen:
        return False
    return inner.network_address in outer
