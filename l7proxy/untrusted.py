"""Reading JSON that a proxy may have written to harm its reader. Used by `record`, `admin`,
`status`."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """What the text says; ValueError when it is no JSON, or nested deeper than can be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
