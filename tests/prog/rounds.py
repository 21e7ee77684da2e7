"""How long the tests that draw at random go on: one round, or as long as `FUZZ_SECONDS` says.

A round follows from its seed, which is printed; `FUZZ_SEED` does one such round again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)


def seeds(usual: int | None = None) -> Iterator[int]:
    """The seeds of the rounds: `usual` (or any) alone, or new ones while there is time."""
    told = os.environ.get("FUZZ_SEED")
    if told:
        usual = int(told)
    end = time.monotonic() + SECONDS
    seed = random.SystemRandom().getrandbits(32) if usual is None else usual
    while True:
        print(f"seed {seed}", flush=True)
        yield seed
        if time.monotonic() >= end or told:
            return
        seed = random.SystemRandom().getrandbits(32)
