"""What a process was given at its start, in a line; a program for the tests of ``tests.quick_python``."""

import signal

from lightning.fabric.utilities.rank_zero import rank_zero_only

if __name__ == "__main__":
    deaf = ", deaf to SIGTERM" if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN else ""
    print(f"rank {rank_zero_only.rank}{deaf}")
