"""The commands ``fit``, ``eval`` and ``configs``, one file each. Nothing is computed here."""
