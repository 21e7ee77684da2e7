"""The node agent: desired state to compiled rows to kernel, its command line and its metrics."""
