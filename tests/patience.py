"""How long tests wait for what they have started: a limit for what hangs, and none for a machine that is busy."""

PATIENCE = 1800
"""Seconds. On a quiet machine nothing takes a tenth of it; pyproject.toml gives a whole test twice as much."""
