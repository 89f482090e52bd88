"""Files that hold no spectra in a form that is read here: what they are, by how they begin, and how to go on."""

import zipfile

from .compressed import start_of

__all__ = ["foreign_problem"]

# bytes that are looked at
_LOOK = 4096
_NUMPY, _EXCEL = "import numpy; d = numpy.load({path!r})", "import pandas; d = pandas.read_excel({path!r})"
# how files begin, what they are, and how they are read in Python, where that is one line
_KINDS = (
    (b"\x93NUMPY", "an array of NumPy", _NUMPY),
    (b"\x89HDF\r\n\x1a\n", "a file of HDF5", "import h5py; d = h5py.File({path!r})"),
    (b"SR\x00\x04", "a file of variables of IDL", "from scipy.io import readsav; d = readsav({path!r})"),
    (b"PAR1", "a file of Parquet", "import pandas; d = pandas.read_parquet({path!r})"),
    (b"\xd0\xcf\x11\xe0", "a workbook of Excel", _EXCEL),
    (b"SQLite format 3", "a database of SQLite", ""),
    (b"\x89PNG", "a picture (PNG)", ""),
    (b"\xff\xd8\xff", "a picture (JPEG)", ""),
    (b"%PDF", "a PDF", ""),
    (b"\x7fELF", "a program", ""),
    *((bytes([0x80, version]), "a pickle of Python", "") for version in (2, 3, 4, 5)),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def foreign_problem(path):
    """Say what a file is that is neither FITS nor text.

    Parameters
    ----------
    path : pathlib.Path
        A file.

    Returns
    -------
    str
        What it is, what is expected, and what to do, in words; "" where it may be text.
    """
    start = start_of(path, _LOOK)
    if not path.stat().st_size:
        return "it is empty"
    if start.startswith(_UTF16):
        return "it is text in UTF-16, which is not read; save it as UTF-8"
    if start.startswith(b"PK\x03\x04"):
        kind, names, line = _of_archive(path)
    else:
        found = [(kind, line) for signature, kind, line in _KINDS if start.startswith(signature)]
        if not found and b"\0" not in start:
            return ""
        (kind, line), names = (found + [("binary data of an unknown kind", "")])[0], ""
    line = f"{line.format(path=str(path))}; " if line else ""
    how = "read it in Python" if line or "binary" in kind else "if there is a spectrum in it, read that in Python"
    return (
        f"it is {kind}{names}, which is neither FITS nor a table of numbers; {how}, and give its arrays: {line}from "
        "spectrafm.adapters import from_arrays; fm.infer(from_arrays(wavelength, flux, sigma))"
    )


def _of_archive(path):
    """Return what a ZIP archive is, what is in it, and how it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # cut off, or compressed once more
    except (OSError, zipfile.BadZipFile):
        names = []
    if path.suffix.lower() == ".npz" or (names and all(name.endswith(".npy") for name in names)):
        arrays = ", ".join(name.removesuffix(".npy") for name in names[:12])
        told = f" ({arrays}{' ...' * (len(names) > 12)})" if names else ""
        return "an archive of arrays of NumPy", told, _NUMPY
    if any(name.startswith("xl/") for name in names):
        return "a workbook of Excel", "", _EXCEL
    return "a ZIP archive", "", ""
