"""A tenant's Envoy: what it should be (pure builders) and how it is kept running (supervisor).

The package knows nothing of the agent: it is given a `ProxySpec`, which names a network namespace
by path, and reports readiness by callback.
"""
