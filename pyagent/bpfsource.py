"""Where the C sources of the programs are. Used by the loader and by readers of `abi.h`."""

from __future__ import annotations

from pathlib import Path

from pyagent.errors import SluiceError


def bpf_directory() -> Path:
    """The folder with `node.bpf.c`, `abi.h` and `kheaders/`.

    An installed package carries it inside (`pyagent/bpf`); in a checkout, which an editable
    install points at, it lies beside the package.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "bpf", package.parent / "bpf"):
        if (folder / "abi.h").is_file():
            return folder
    raise SluiceError(f"the BPF sources are not beside {package}: install sluice again")
