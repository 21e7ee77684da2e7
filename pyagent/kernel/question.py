"""Asking the data plane: a packet made for the question, run through the loaded program itself.

Called by `sluice policy trace` and `verify`. The answer is what the program would do with the
first packet of a new flow between the two ends; no map changes (`struct answer` in `bpf/abi.h`).
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from pyagent.errors import KernelError
from pyagent.kernel import abi, bpf
from pyagent.kernel.loader import PROGRAMS
from pyagent.kernel.tables import Tables
from pyagent.model import Address

_ETHERNET = {4: 0x0800, 6: 0x86DD}
_PORT = 49152  # of the source; no flow is looked for, so any will do
TCP, UDP, SCTP = 6, 17, 132
_CONTEXT = 192  # bytes of `struct __sk_buff` as far as a test run reads it
_INGRESS_IFINDEX, _CB = 36, 48  # offsets: ingress_ifindex, then ifindex; cb[5]


@dataclass(frozen=True, slots=True)
class Question:
    """The first packet of a flow. `port` is the destination's, 0 where the protocol has none."""

    source: Address
    destination: Address
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the program does: numbers as in the maps; rules 0 for none, tenant 0 for no proxy."""

    verdict: str
    reason: str
    egress_rule: int
    ingress_rule: int
    tenant: int


def packet(question: Question) -> bytes:
    """The Ethernet frame of a question: a SYN, an INIT, an echo request or a bare datagram."""
    version = question.source.version
    payload = _transport(question)
    if isinstance(question.source, IPv4Address):
        header = struct.pack(
            "!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, question.protocol, 0
        )
    else:
        header = struct.pack("!IHBB", 6 << 28, len(payload), question.protocol, 64)
    header += question.source.packed + question.destination.packed
    return bytes(12) + struct.pack("!H", _ETHERNET[version]) + header + payload


def _transport(question: Question) -> bytes:
    ports = struct.pack("!HH", _PORT, question.port)
    if question.protocol == TCP:
        return ports + struct.pack("!IIBBHHH", 0, 0, 5 << 4, 2, 65535, 0, 0)
    if question.protocol == UDP:
        return ports + struct.pack("!HH", 8, 0)
    if question.protocol == SCTP:
        return ports + struct.pack("!IIBBHIIHHI", 0, 0, 1, 0, 20, 1, 65535, 1, 1, 1)
    if question.protocol == 1:
        return struct.pack("!BBHHH", 8, 0, 0, _PORT, 1)
    if question.protocol == 58:
        return struct.pack("!BBHHH", 128, 0, 0, _PORT, 1)
    return bytes(8)


class Asker:
    """The pinned programs and maps of one agent, open for questions; a context manager.

    It has to run in the agent's network namespace, where the workloads' interfaces are.
    """

    def __init__(self, pins: Path) -> None:
        self._tables = Tables(pins)
        self._secret = int(self._tables.settings["trace"])
        self._locals = {
            record["address"]: int(value["ifindex"])
            for record, value in self._tables["local_addrs"].records()
        }
        self._answer = abi.load().layouts["answer"]
        folders = sorted(pins.glob("programs-*"), key=lambda path: path.stat().st_mtime)
        if not folders or not self._secret:
            self._tables.close()
            raise KernelError(
                f"{pins}: no agent has loaded its programs since these pins were made"
            )
        self._fds = {name: bpf.open_pin(folders[-1] / name) for name in PROGRAMS[:2]}

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            bpf.close(fd)
        self._tables.close()

    def is_local(self, address: Address) -> bool:
        """Whether a workload of this node has the address."""
        return address in self._locals

    def ask(self, question: Question) -> Answer:
        """Runs the program that would see the packet first on this node.

        KernelError when neither end is a workload here, or its interface isn't in this network
        namespace.
        """
        if question.source in self._locals:
            program, ifindex = "from_workload", self._locals[question.source]
        elif question.destination in self._locals:
            program, ifindex = "to_workload", self._locals[question.destination]
        else:
            raise KernelError(
                f"neither {question.source} nor {question.destination} is a workload of this node"
            )
        raw = self._run(self._fds[program], packet(question), self._context(ifindex))
        found = self._answer.unpack(raw[_CB : _CB + self._answer.size])
        lists = abi.load()
        if found["mark"] != lists.constants["ANSWER_MARK"]:
            raise KernelError("the program gave no answer: another version is attached")
        return Answer(
            verdict=lists.name_of("VERDICTS", int(found["verdict"])),
            reason=lists.name_of("DROP_REASONS", int(found["reason"])),
            egress_rule=int(found["egress_rule"]),
            ingress_rule=int(found["ingress_rule"]),
            tenant=int(found["tenant"]),
        )

    def _context(self, ifindex: int) -> bytes:
        context = bytearray(_CONTEXT)
        struct.pack_into("=II", context, _INGRESS_IFINDEX, 0, ifindex)
        struct.pack_into("=Q", context, _CB, self._secret)
        return bytes(context)

    def _run(self, fd: int, frame: bytes, context: bytes) -> bytes:
        try:
            return bpf.run(fd, frame, context).context
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL):
                raise KernelError(
                    "the workload's interface is not in this network namespace: "
                    "run this where the agent runs"
                ) from None
            raise KernelError(f"the kernel cannot run the program: {error.strerror}") from None
