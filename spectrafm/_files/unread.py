"""Files in which no spectrum is found: what is in them, and the lines of Python that read it."""

from .errors_and_masks import ERRORS
from .table_columns import bracket_unit, known_columns, medium_in_name, unit_in_name
from .tables import is_votable, read_tables

__all__ = ["unread_problem"]


def unread_problem(file, reason):
    """Say what is in a file that cannot be read, and what to do.

    Parameters
    ----------
    file : SpectrumFile
        The file.
    reason : str
        What a reader said of it, with a semicolon at its end, or "".

    Returns
    -------
    str
        In words, with lines of Python that read it where there are such.
    """
    tables = read_tables(file)
    causes = "; ".join(f"{place} cannot be read ({cause})" for place, cause in file.causes.items())
    if tables:
        place, table = next(iter(tables.items()))
        where = _where(file, place)
        names, known = table.colnames, known_columns(table, by_unit=True)
        missing = [kind for kind in ("wavelength", "flux") if kind not in known]
        return (
            f"{reason}{causes}{'; ' * bool(causes)}the table in it has the columns "
            f"{', '.join(names[:12])}{' ...' * (len(names) > 12)}, of which none is "
            f"known to be {', or '.join(missing)}; in Python: from astropy.table import Table; from "
            f"spectrafm.adapters import from_arrays; t = Table.read({str(file.path)!r}{where}); "
            f"{_columns_in_python(table, known, file.units['wavelength'])}; fm.infer(stars)"
        )
    if causes or file.damage:
        # what specutils says of it is a consequence
        cut_off = f": the file may be cut off{f' ({file.damage})' * bool(file.damage)}" if file.hdus else ""
        return f"{causes or 'no data in it can be read'}{cut_off or '; correct the file'}"
    if file.hdus:
        kinds = ", ".join(
            f"HDU {n} {hdu.name}{f' of shape {hdu.shape}' if hdu.is_image else ', a table without numbers'}"
            for n, hdu in enumerate(file.hdus)
            if hdu.size
        )
        if not kinds:
            return "there is no data in it: the file may be cut off"
        return (
            f"{reason}there is in it {kinds}, and no wavelength that is understood; write CRVAL1, CRPIX1, CDELT1 "
            "and CUNIT1 into its header, or give wavelengths in Python: from astropy.io import fits; from "
            f"spectrafm.adapters import from_arrays; flux = fits.getdata({str(file.path)!r}); "
            "stars = from_arrays(wavelength, flux); fm.infer(stars)"
        )
    return (
        f"{reason}it is neither FITS nor a table of numbers; read it in Python, and give its arrays: from "
        "spectrafm.adapters import from_arrays; fm.infer(from_arrays(wavelength, flux, sigma))"
    )


def _where(file, place):
    """Return the arguments with which astropy reads a table of a file."""
    if file.hdus:
        return f", hdu={place.split()[1]}"
    if is_votable(file.path):
        return ", format='votable'" + (f", table_id={place.split()[1]}" if place else "")
    return "" if file.path.suffix.lower() == ".ecsv" else f", {file.table_options}"


def _columns_in_python(table, known, unit):
    """Return the lines of Python that make spectra of a table t, with its columns as far as they are known."""
    names = table.colnames
    if not known and len(names) == 2:
        # in the order that everybody has them
        known = dict(zip(("wavelength", "flux"), names, strict=True))
    free = {*names} - {*known.values()}
    column = {kind: f"t[{name!r}]" for kind, name in known.items()}
    for kind in ("wavelength", "flux"):
        column.setdefault(kind, f"t['the column of {kind}']" if free else kind)
    lines, axis = [], known.get("wavelength")
    # what is in the file, astropy knows
    unit = unit or (unit_in_name(axis) or bracket_unit(axis) if axis else "")
    if unit and "log" in known:
        lines = ["from astropy import units as u"]
        column["wavelength"] = f"10 ** {column['wavelength']} * u.Unit({unit!r})"
    elif "log" in known:
        column["wavelength"] = f"10 ** {column['wavelength']}"
    elif unit and "t[" in column["wavelength"]:
        lines = [f"{column['wavelength']}.unit = {unit!r}"]
    errors = "sigma=None"
    if taken := [kind for kind in ERRORS if kind in known]:
        errors = f"sigma={column['var']} ** 0.5" if taken[0] == "var" else f"{taken[0]}={column[taken[0]]}"
    arguments = [column["wavelength"], column["flux"], errors]
    arguments += [f"mask={column[kind]}" for kind in ("mask",) if kind in known]
    arguments += ["medium='air'"] * (axis is not None and medium_in_name(axis) == "air")
    return "; ".join([*lines, f"stars = from_arrays({', '.join(arguments)})"])
