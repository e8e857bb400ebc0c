"""``python -m bacon_pl`` is the command ``bacon``."""

from bacon_pl.cli import main

if __name__ == "__main__":
    main()
