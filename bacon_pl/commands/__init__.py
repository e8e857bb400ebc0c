"""The commands ``fit``, ``eval``, ``configs`` and ``cache``, one file each."""
