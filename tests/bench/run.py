"""`python -m tests.bench.run [NAME...]`: runs benchmarks, all of them unless some are named.

Each is a module of this folder with `NEEDS`, the commands it calls and the Debian packages they
come in, and `measure(report)`. Results go to build/bench/NAME.json and to the terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

from tests.bench.report import Report

BENCHMARKS = ("policy", "datapath")
_RESULTS = Path(__file__).parents[2] / "build" / "bench"


def main(names: list[str]) -> int:
    """The exit status: 0 done, 1 something is missing, 2 there is no such benchmark."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        return _refuse(f"no benchmark {unknown[0]}: there are {', '.join(BENCHMARKS)}", 2)
    if os.geteuid() != 0:
        return _refuse("the benchmarks need root: run make bench")
    modules = {name: import_module(f"tests.bench.{name}") for name in names or BENCHMARKS}
    for name, module in modules.items():
        for command, package in module.NEEDS.items():
            if shutil.which(command) is None:
                return _refuse(f"{name} needs {command}: apt-get install {package}")
    for name, module in modules.items():
        report = Report(name)
        module.measure(report)
        report.write(_RESULTS)
    return 0


def _refuse(why: str, status: int = 1) -> int:
    print(f"bench: {why}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
