"""The demo: two tenants on one node, real traffic, and a table of what came of it."""
