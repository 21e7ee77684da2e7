"""The allocated numbers from one start of the agent to the next. Called by the reconciler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pyagent.compiler import Numbers
from pyagent.compiler.rows import FIRST_IDENTITY
from pyagent.errors import SluiceError
from pyagent.plan import Rows
from pyagent.state import read_numbers

_log = logging.getLogger(__name__)


def merge(old: Numbers, new: Numbers) -> Numbers:
    """Numbers that either revision uses: what a crash between the two may have left behind."""
    return Numbers(
        identities={**old.identities, **new.identities},
        rules={**old.rules, **new.rules},
        tenants={**old.tenants, **new.tenants},
    )


def numbers_at_start(state_dir: Path, rows: Rows, proxies: Mapping[int, str]) -> Numbers:
    """The numbers that the last agent kept; `rows` are those in the kernel, `proxies` names the
    tenants whose proxies' interfaces are there.

    Where the file is lost or unreadable, nobody knows what the other numbers in the rows mean.
    They are held by names that nothing has, so that no other takes one while its rows are there.
    """
    try:
        stored = read_numbers(state_dir)
        if stored is not None:
            return Numbers.from_json(stored)
    except SluiceError as error:
        _log.warning("all numbers are given anew: %s", error)
    identities = {key.subject for key in rows.policy} | {key.peer for key in rows.policy}
    identities |= {row.identity for row in rows.identities.values()}
    identities |= {row.identity for row in rows.workloads.values()}
    rules = {value.rule for value in rows.policy.values()}
    tenants = rows.tenants.keys()
    return Numbers(
        identities={f"lost {n}": n for n in identities if n >= FIRST_IDENTITY},
        rules={f"lost {n}": n for n in rules if n},
        tenants={proxies.get(rows.tenants[n].proxy, f"lost {n}"): n for n in tenants},
    )
