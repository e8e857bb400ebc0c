"""Time limits of tests for the processes that they start: they catch hangs, but tolerate busy machines."""

PATIENCE = 1800
"""Seconds. On a quiet machine nothing takes a tenth of it; pyproject.toml gives a whole test twice as much."""
