"""The commands ``fit``, ``eval``, ``teach``, ``configs`` and ``cache``, one file each."""
