"""What the commands of the command line have in common."""

import sys

__all__ = ["FAILED", "SOME_FAILED", "add_device", "complain"]

#: Exit status when some spectra could not be read, and when nothing could be done.
SOME_FAILED, FAILED = 1, 2


def complain(text):
    """Write a line to the standard error.

    Parameters
    ----------
    text : str
        What to write.
    """
    print(f"spectrafm: {text}", file=sys.stderr)


def add_device(parser):
    """Declare the option ``--device``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of a command.
    """
    parser.add_argument("--device", default="cpu", metavar="D", help="where to run: cpu, cuda, mps (cpu)")
