"""Sets of identities as integers whose bits are identities' numbers, and how selectors find them.

For every label there is one integer that says who carries it, so a selector is a few operations
on integers however many workloads there are. Used by `index`, for subjects and for peers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TypeVar

from pyagent.compiler.labels import Labels, LabelSet
from pyagent.model import LabelSelector, Operator, PolicyPeer, Requirement

Numbers = int  # the numbers of identities, one bit each

_Key = TypeVar("_Key", bound=Hashable)


def positions(numbers: Numbers) -> Iterator[int]:
    """Give the numbers in a set, lowest first."""
    digits = bin(numbers)[:1:-1]
    found = digits.find("1")
    while found >= 0:
        yield found
        found = digits.find("1", found + 1)


def toggle(sets: dict[_Key, Numbers], key: _Key, numbers: Numbers) -> None:
    """Enter numbers with a key, or take them out; what is empty is not kept."""
    left = sets.get(key, 0) ^ numbers
    if left:
        sets[key] = left
    else:
        sets.pop(key, None)


class Members:
    """Identities that have labels, by namespace and by label."""

    def __init__(self) -> None:
        self.everybody: Numbers = 0
        self.in_namespace: dict[str, Numbers] = {}
        self._workloads = _Carriers()
        self._namespaces = _Carriers()

    def toggle(self, number: int, label_set: LabelSet) -> None:
        """Enter an identity, or take it out."""
        numbers = 1 << number
        self.everybody ^= numbers
        toggle(self.in_namespace, label_set.namespace, numbers)
        self._workloads.toggle(label_set.labels, numbers)
        self._namespaces.toggle(label_set.namespace_labels, numbers)

    def select(
        self, namespace: str, pods: LabelSelector | None, namespaces: LabelSelector | None
    ) -> Numbers:
        """Return who is in one of the namespaces and matches; without selector, the one named."""
        if namespaces is None:
            found = self.in_namespace.get(namespace, 0)
        else:
            found = self._namespaces.match(namespaces, self.everybody)
        return found if pods is None else self._workloads.match(pods, found)

    def of_peer(self, namespace: str, peer: PolicyPeer) -> Numbers:
        """Return whom the selectors of a peer match; without any it is an ipBlock, or invalid."""
        if peer.pod_selector is None and peer.namespace_selector is None:
            return 0
        return self.select(namespace, peer.pod_selector, peer.namespace_selector)


class _Carriers:
    """For each label and each label key, who carries it."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], Numbers] = {}
        self._keys: dict[str, Numbers] = {}

    def toggle(self, labels: Labels, numbers: Numbers) -> None:
        """Enter who carries these labels, or take them out."""
        for pair in labels:
            toggle(self._pairs, pair, numbers)
            toggle(self._keys, pair[0], numbers)

    def match(self, selector: LabelSelector, among: Numbers) -> Numbers:
        """Return who of these satisfies every entry of the selector; an empty one, all of them."""
        for pair in selector.match_labels.items():
            among &= self._pairs.get(pair, 0)
        for requirement in selector.match_expressions:
            among &= self._require(requirement, among)
        return among

    def _require(self, requirement: Requirement, among: Numbers) -> Numbers:
        if requirement.operator is Operator.EXISTS:
            return self._keys.get(requirement.key, 0)
        if requirement.operator is Operator.DOES_NOT_EXIST:
            return among & ~self._keys.get(requirement.key, 0)
        listed = 0
        for value in requirement.values:
            listed |= self._pairs.get((requirement.key, value), 0)
        return listed if requirement.operator is Operator.IN else among & ~listed
