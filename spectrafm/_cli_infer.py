"""The command ``spectrafm infer``."""

import argparse
import math
import re
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ._cli_common import SOME_FAILED, add_device, complain
from ._rest_frame import MEASURE
from .exceptions import InputValueError, SpectraFMError
from .flags import MASKING_FLAGS, Flag, describe_flags

__all__ = ["add_infer", "run_infer"]

# options for what has another name in Python
_OPTIONS = {
    "file_format": "--format",
    "flux_unit": "--flux-unit",
    "merge_orders": "--merge-orders",
    "radial_velocity": "--radial-velocity",
    "wavelength_unit": "--wavelength-unit",
}


def add_infer(parser):
    """Declare the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    from .adapters import MASK_POLICIES
    from .results import EXTENSIONS

    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="spectra: any format of specutils, plain tables, VOTables, FITS images"
    )
    parser.add_argument("--example", action="store_true", help="use the star that comes with the package")
    parser.add_argument("-o", "--output", metavar="TABLE", help=f"table to write: {', '.join(EXTENSIONS)}")
    parser.add_argument("--plot", metavar="FIGURE", help="figure to write: .png, .pdf, .svg")
    parser.add_argument("--overwrite", action="store_true", help="replace TABLE and FIGURE if they exist")
    parser.add_argument(
        "--model", metavar="M", help="name or folder of weights, or hf://owner/name; by default those in the package"
    )
    parser.add_argument("--labels", type=_names, metavar="A,B", help="labels wanted, by default all")
    parser.add_argument("--known", type=_numbers, metavar="A=X,B=Y", help="what is known of the stars already")
    parser.add_argument(
        "--medium",
        choices=("vacuum", "air"),
        help="medium of the wavelengths, by default what the file says, or vacuum",
    )
    parser.add_argument(
        "--radial-velocity",
        type=_speed,
        metavar="V",
        help="velocity of the stars in km/s, or with its unit, positive when receding, or "
        f"{MEASURE!r} to measure that of each spectrum; it is taken out of the wavelengths; by default what the file "
        "says, or 0",
    )
    parser.add_argument(
        "--resolving-power", type=_positive, metavar="R", help="resolving power lambda/FWHM, if it is known"
    )
    parser.add_argument("--mask-policy", choices=sorted(MASK_POLICIES), help="which mask bits mean a bad pixel")
    parser.add_argument("--format", metavar="FMT", help="format of the files, as specutils or astropy's Table names it")
    parser.add_argument(
        "--wavelength-unit", metavar="UNIT", help="unit of the wavelengths, if the files do not give it"
    )
    parser.add_argument("--flux-unit", metavar="UNIT", help="unit of the flux, if the files do not give it")
    parser.add_argument(
        "--merge-orders", action="store_true", help="the spectra in each file are orders or arms of a star: merge them"
    )
    add_device(parser)


def run_infer(arguments):
    """Find labels of the spectra in files.

    Parameters
    ----------
    arguments : argparse.Namespace
        As declared by `add_infer`.

    Returns
    -------
    int
        The exit status.

    Raises
    ------
    SpectraFMError
        Nothing can be done.
    """
    if bool(arguments.files) == arguments.example:
        arguments.parser.error("give the files of spectra, or --example and no files")
    _check_outputs(arguments)
    from ._inference import infer_stars, why_masked
    from ._weights_files import check_device
    from .core import SpectraFM

    check_device(arguments.device, "--device")
    model = SpectraFM.from_pretrained(arguments.model, arguments.device)
    arrays, sources = _read_all(arguments)
    _check_stars(arguments, model, arrays, sources)
    table, _ = infer_stars(
        model,
        arrays,
        arguments.labels,
        arguments.known,
        radial_velocity=_measured(arguments),
        progress=sys.stderr.isatty(),
        # said below, file by file
        tell_masked=False,
    )
    table.add_column(sources, name="file", index=0)
    table["file"].info.description = "File of the spectrum"
    unit = arguments.wavelength_unit
    hint = f"--wavelength-unit {shlex.quote(unit)} may be wrong" if unit else ""
    for source, star, flag in zip(sources, arrays, table["flag"], strict=True):
        if flag & MASKING_FLAGS:
            problem = why_masked(star, flag, hint) or describe_flags(flag & MASKING_FLAGS)[-1].partition(": ")[2]
            complain(f"{source}: {problem}")
    if arguments.output:
        from .results import write_labels

        write_labels(table, arguments.output, overwrite=arguments.overwrite)
    # why one star has no labels at all is said above
    if (arguments.example or not arguments.output) and not (len(table) == 1 and table["flag"][0] & MASKING_FLAGS):
        print("\n".join(_printed(table)))
    if arguments.example:
        print(_reference_labels())
    if arguments.plot:
        _write_plot(arguments.plot, model, arrays, table, _measured(arguments))
    failed = (table["flag"] & int(Flag.BAD_INPUT)) != 0
    return SOME_FAILED if failed.any() else 0


def _measured(arguments):
    """Return the word for velocities that the weights measure, or None where they have been taken out on reading."""
    return MEASURE if arguments.radial_velocity == MEASURE else None


def _check_outputs(arguments):
    """Refuse before any work what could not be written after it."""
    from .results import check_filename

    if arguments.output:
        check_filename(arguments.output, arguments.overwrite)
    if arguments.plot:
        from matplotlib.backend_bases import FigureCanvasBase

        path, known = Path(arguments.plot), FigureCanvasBase.get_supported_filetypes()
        if path.suffix.lstrip(".").lower() not in known:
            raise InputValueError(f"--plot: {path.name!r}, expected a name that ends in .{', .'.join(sorted(known))}")
        if path.exists() and not arguments.overwrite:
            raise InputValueError(f"--plot: {path} exists; choose another name, or add --overwrite")
        if not path.parent.is_dir():
            raise InputValueError(f"--plot: there is no folder {path.parent}; make it first")
        if len(set(arguments.files)) > 1 and arguments.labels:
            _check_kiel(arguments.labels)
    written = {Path(name).resolve() for name in (arguments.output, arguments.plot) if name}
    for name in arguments.files:
        if Path(name).resolve() in written:
            raise InputValueError(f"{name} is to be read and to be written; choose another name for the output")


def _check_stars(arguments, model, arrays, sources):
    """Refuse before inference what could not be written of these stars after it."""
    from .results import check_texts

    if arguments.output:
        check_texts(arguments.output, [*sources, *(star.identifier for star in arrays)])
    if arguments.plot and len(arrays) > 1:
        _check_kiel(arguments.labels or model.labels)


def _check_kiel(labels):
    """Refuse a figure of several stars without its axes."""
    missing = [name for name in ("teff", "logg") if name not in labels]
    if missing:
        raise InputValueError(
            f"--plot: of several stars it is their Kiel diagram; add {','.join(missing)} to --labels, or leave it out"
        )


def _read_all(arguments):
    """Read all files; return all stars, and the file of each."""
    from ._progress import progress
    from .adapters import SpectrumArrays

    names = ["example"] if arguments.example else list(dict.fromkeys(arguments.files))
    stars, sources, notes = [], [], {}
    for name in progress(names, sys.stderr.isatty() and len(names) > 1, description="read"):
        said = []
        try:
            found = _read(name, arguments, said)
        except SpectraFMError as error:
            problem = _in_options(str(error).removeprefix(f"{name}: "))
            found, said = [SpectrumArrays.unusable(problem, name)], []
        for note in said:
            notes.setdefault(_in_options(note), []).append(name)
        stars += [_named(star, row, len(found), name) for row, star in enumerate(found)]
        sources += [name] * len(found)
    for note, where in notes.items():
        # once for all files of a kind
        more = len(where) - 1
        complain(f"{where[0]}{f' and {more} other' * (more > 0)}{'s' * (more > 1)}: {note}")
    return stars, sources


def _read(name, arguments, notes):
    """Return the stars of a file, or the example."""
    from astropy import units as u

    from .adapters import to_arrays
    from .datasets import load_example_spectrum
    from .spectrum_files import read_spectra

    given = arguments.radial_velocity
    spectrum_options = {
        "medium": arguments.medium,
        "radial_velocity": None if given in (None, MEASURE) else given * u.km / u.s,
        "resolving_power": arguments.resolving_power,
        "mask_policy": arguments.mask_policy,
    }
    if arguments.example:
        return to_arrays(load_example_spectrum(), **spectrum_options)
    return read_spectra(
        name,
        file_format=arguments.format,
        wavelength_unit=arguments.wavelength_unit,
        flux_unit=arguments.flux_unit,
        merge_orders=arguments.merge_orders,
        notes=notes,
        **spectrum_options,
    )


def _in_options(text):
    """Write arguments of Python as options of the command line."""

    def option(match):
        value = match[2] or ""
        return " ".join([_OPTIONS[match[1]], *[shlex.quote(value[1:-1])] * value.startswith("'")])

    return re.sub(rf"(?<![\w.])({'|'.join(_OPTIONS)})(?:=(True|'[^']*')?|(?=:))", option, text)


def _named(star, row, n_star, name):
    """Return a star named after its file, where the file has no name for it."""
    if star.identifier != str(row):
        return star
    return replace(star, identifier=Path(name).stem if n_star == 1 else f"{Path(name).stem}:{row}")


def _printed(table):
    """Return the lines that show a table to a reader: in words for one star, else as a table."""
    from astropy.table import Table

    from .results import describe_row, unproven_lines

    if len(table) == 1:
        identifier = table["identifier"][0] if "identifier" in table.colnames else table["file"][0]
        return [str(identifier), *describe_row(table)]
    plain = Table(table)
    for name in plain.colnames:
        if plain[name].dtype.kind == "f":
            plain[name].info.format = ".1f" if name == "snr" or str(plain[name].unit) == "K" else ".3f"
    legend = sorted({bit for flag in table["flag"] for bit in Flag if flag & bit})
    return [
        *plain.pformat(max_lines=-1, max_width=-1),
        *(f"flag {int(bit)} {describe_flags(bit)[0]}" for bit in legend),
        *unproven_lines(table),
    ]


def _reference_labels():
    """Return a line with what APOGEE says of the example star."""
    from .datasets import load_example_spectrum

    header = load_example_spectrum().meta["header"]
    known = [f"{name} {header[key]:.4g}" for name, key in (("teff", "TEFF"), ("logg", "LOGG"), ("fe_h", "FE_H"))]
    return f"for comparison, {header['LABELREF']}: {', '.join(known)}"


def _write_plot(filename, fm, arrays, table, radial_velocity):
    """Draw the spectrum with its labels, and the model's own, if there is one star, else the Kiel diagram of all."""
    # not by way of pyplot: no window and no backend to choose
    from matplotlib.figure import Figure

    from .plotting import plot_labels, plot_spectrum, spectrum_size

    single = len(table) == 1
    figure = Figure(figsize=spectrum_size(table) if single else (6.4, 5.2), layout="constrained")
    if not single:
        plot_labels(table, ax=figure.subplots())
    elif arrays[0].problem:
        figure.text(0.5, 0.5, "there is no spectrum to draw", ha="center")
    else:
        model = None
        # weights that predict no flux of such spectra say so
        with suppress(InputValueError):
            [model] = fm.reconstruct(arrays, radial_velocity=radial_velocity)
        # as it was read: in vacuum and at rest, with the masks of the policy
        plot_spectrum(arrays, table, ax=figure.subplots(), model=model)
    figure.savefig(filename, dpi=150)


def _positive(text):
    with suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text}: expected a positive number, such as 2000")


def _speed(text):
    from astropy import units as u

    from ._spectral_units import SPEED_OF_LIGHT

    if text == MEASURE:
        return text
    # no speed, or of another unit
    with suppress(TypeError, ValueError):
        given = u.Quantity(text)
        value = float(given.value if given.unit == u.one else given.to_value(u.km / u.s))
        if abs(value) < SPEED_OF_LIGHT:
            return value
    raise argparse.ArgumentTypeError(
        f"{text}: expected a speed below that of light, in km/s or with its unit, such as -35 or '0.5 AU/yr', "
        f"or {MEASURE}"
    )


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text):
    pairs = [pair.partition("=") for pair in _names(text)]
    try:
        return {name.strip(): float(value) for name, _, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers such as teff=5000,e_teff=50") from None
