"""Files as they are once decompressed: how they begin, and all of them."""

import bz2
import gzip
import lzma

__all__ = ["begins_with", "open_plain", "start_of"]

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# what says that a file is an XML, or HTML, may stand after as many bytes of blanks
_BLANKS = 512


def open_plain(path):
    """Open a file for reading bytes, after they are decompressed by gzip, bzip2 or xz.

    Parameters
    ----------
    path : pathlib.Path
        A file.

    Returns
    -------
    file object
        Reading from it fails with OSError, EOFError or lzma.LZMAError where it is damaged.
    """
    with path.open("rb") as opened:
        start = opened.read(max(map(len, _OPENERS)))
    open_it = next((open_it for signature, open_it in _OPENERS.items() if start.startswith(signature)), open)
    return open_it(path, "rb")


def start_of(path, n_byte):
    """Return how a file begins, after it is decompressed.

    Parameters
    ----------
    path : pathlib.Path
        A file.
    n_byte : int
        As many bytes are looked at.

    Returns
    -------
    bytes
    """
    with open_plain(path) as opened:
        return opened.read(n_byte)


def begins_with(path, starts):
    """Tell what a file begins with, after blanks.

    Parameters
    ----------
    path : pathlib.Path
        A file.
    starts : bytes or tuple of bytes
        Any of them.

    Returns
    -------
    bool
    """
    return start_of(path, _BLANKS).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(starts)
