"""What the kernel and the proxies say of each attempt: flow events, and access log lines.

Called by `run`. Events come from the running agent's event socket; each belongs to the flow whose
ends it names.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType

from l7proxy.spec import ACCESS_LOG
from pyagent.demo import places
from pyagent.demo.attempts import Flow
from pyagent.errors import SluiceError
from pyagent.events import FlowEvent, Lost, subscribe
from pyagent.proxies import proxies_directory

_ARRIVES_WITHIN = 2.0  # seconds after the packet


class Witness:
    """A context manager: from its start on, every event of the agent is kept."""

    def __init__(self) -> None:
        """SluiceError when no agent runs."""
        self._changed = threading.Condition()
        self._events: dict[Flow, FlowEvent] = {}
        self._lost = 0
        self._subscription = subscribe(places.RUN)
        self._thread = threading.Thread(target=self._listen, name="witness", daemon=True)
        self._thread.start()

    def __enter__(self) -> Witness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._subscription.close()
        self._thread.join(2.0)

    def _listen(self) -> None:
        for item in self._subscription:
            with self._changed:
                if isinstance(item, Lost):
                    self._lost += item.count
                else:
                    self._keep(item)
                self._changed.notify_all()

    def _keep(self, event: FlowEvent) -> None:
        source, destination = event.source, event.destination
        if source.address is not None and destination.address is not None:
            ends = (source.address, source.port, destination.address, destination.port)
            self._events.setdefault(Flow(event.protocol, *ends), event)

    def event(self, flow: Flow) -> FlowEvent | None:
        """The first event of a flow, waited for a little; None when the kernel said nothing.

        SluiceError when it is missing and events were lost.
        """
        with self._changed:
            self._changed.wait_for(lambda: flow in self._events, _ARRIVES_WITHIN)
            found = self._events.get(flow)
            if found is None and self._lost:
                raise SluiceError(f"{self._lost} flow events were lost: run the demo again")
            return found


def access_log(tenants: Iterable[str]) -> Mapping[tuple[str, int], list[dict[str, str]]]:
    """The lines of the tenants' access logs by client address and port, with the tenant in each."""
    found: dict[tuple[str, int], list[dict[str, str]]] = {}
    for tenant in tenants:
        path = proxies_directory(places.STATE) / tenant / ACCESS_LOG
        text = path.read_text() if path.exists() else ""
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):  # the last one may be in the middle of being written
                entry = json.loads(line)
                host, _, port = entry["client"].rpartition(":")
                client = (host.strip("[]"), int(port))
                found.setdefault(client, []).append({**entry, "tenant": tenant})
    return found
