"""Timings of the library against the published algorithm written literally; ``run.py`` is the command."""
