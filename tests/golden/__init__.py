"""Recorded cases of the Flyte 2 backend, replayed against propfan: ``python -m tests.golden``."""
