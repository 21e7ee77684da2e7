"""The command line: one file per noun, registered in `main`; the only place that imports click."""
