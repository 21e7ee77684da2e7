"""The agent: one loop that makes the kernel and the proxies what the source says."""
