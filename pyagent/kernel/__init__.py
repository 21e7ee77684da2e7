"""Everything that speaks to the kernel: bpf(2), BCC, netlink, pins. Bytes and ctypes stay here."""
