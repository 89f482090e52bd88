"""The command ``spectrafm``.

Each subcommand is a pair of functions: ``_add_<name>`` declares its options and
``_run_<name>`` does the work and returns the exit status. A new one needs such
a pair and a line in ``_COMMANDS``.
"""

import argparse
import math
import os
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from .exceptions import InputValueError, SpectraFMError, SpectraFMWarning
from .flags import MASKING_FLAGS, Flag, describe_flags

__all__ = ["main"]

#: Exit status when some spectra could not be read, and when nothing could be done.
_SOME_FAILED, _FAILED = 1, 2


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process when left out.

    Returns
    -------
    int
        0 when every spectrum was read, those too that these weights see nothing of, which
        their flags say; 1 when some could not be read, or made; 2 when nothing could be done.

    Raises
    ------
    SystemExit
        The arguments do not make sense, or ask for help.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # who reads has read enough; what is left must not fail at the exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (SpectraFMError, OSError) as error:
        _complain(f"error: {error}")
        return _FAILED
    except KeyboardInterrupt:
        _complain("stopped")
        return 130


def _parser():
    from . import __version__

    parser = argparse.ArgumentParser(prog="spectrafm", description="Stellar labels, with errors, from stellar spectra.")
    parser.add_argument("--version", action="version", version=f"spectrafm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (add, run, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        add(command)
        command.set_defaults(run=run, parser=command)
    return parser


def _complain(text):
    print(f"spectrafm: {text}", file=sys.stderr)


def _positive(text):
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number")
    return value


def _speed(text):
    from ._spectral_units import SPEED_OF_LIGHT

    value = float(text)
    if not abs(value) < SPEED_OF_LIGHT:
        raise argparse.ArgumentTypeError(f"{text}: expected a speed in km/s below that of light")
    return value


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text):
    pairs = [pair.partition("=") for pair in _names(text)]
    try:
        return {name.strip(): float(value) for name, _, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers such as teff=5000,e_teff=50") from None


def _add_infer(parser):
    from .adapters import MASK_POLICIES
    from .results import EXTENSIONS

    parser.add_argument("files", nargs="*", metavar="FILE", help="spectra, in any format that specutils reads")
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
        "--medium", choices=("vacuum", "air"), help="of the wavelengths, by default what the file says, or vacuum"
    )
    parser.add_argument("--radial-velocity", type=_speed, metavar="KM_S", help="by default what the file says, or 0")
    parser.add_argument("--resolving-power", type=_positive, metavar="R", help="resolving power, where it is known")
    parser.add_argument("--mask-policy", choices=sorted(MASK_POLICIES), help="which mask bits mean a bad pixel")
    parser.add_argument("--format", metavar="FMT", help="format of the files, as specutils or astropy's Table names it")
    parser.add_argument("--wavelength-unit", metavar="UNIT", help="of the wavelengths, where files do not tell it")
    parser.add_argument("--flux-unit", metavar="UNIT", help="of the flux, where files do not tell it")
    parser.add_argument(
        "--merge-orders", action="store_true", help="the spectra in each file are orders of one star: merge them"
    )
    _add_device(parser)


def _add_device(parser):
    parser.add_argument("--device", default="cpu", metavar="D", help="where to run: cpu, cuda, mps (cpu)")


def _run_infer(arguments):
    if bool(arguments.files) == arguments.example:
        arguments.parser.error("give the files of spectra, or --example and no files")
    _check_outputs(arguments)
    from ._inference import uncovered_range
    from ._weights_files import check_device
    from .core import SpectraFM

    check_device(arguments.device, "--device")
    model = SpectraFM.from_pretrained(arguments.model, arguments.device)
    arrays, sources = _read_all(arguments)
    _check_stars(arguments, model, arrays, sources)
    with warnings.catch_warnings():
        # said below, file by file
        warnings.filterwarnings("ignore", message=".*rows are masked", category=SpectraFMWarning)
        table = model.infer(arrays, labels=arguments.labels, known=arguments.known, progress=sys.stderr.isatty())
    table.add_column(sources, name="file", index=0)
    table["file"].info.description = "File of the spectrum"
    for source, star, flag in zip(sources, arrays, table["flag"], strict=True):
        if flag & MASKING_FLAGS:
            problem = (
                star.problem
                or uncovered_range(star, flag)
                or describe_flags(flag & MASKING_FLAGS)[-1].partition(": ")[2]
            )
            _complain(f"{source}: {problem}")
    if arguments.output:
        from .results import write_labels

        write_labels(table, arguments.output, overwrite=arguments.overwrite)
    if arguments.example or not arguments.output:
        print("\n".join(_printed(table)))
    if arguments.example:
        print(_reference_labels())
    if arguments.plot:
        _write_plot(arguments.plot, model, arrays, table)
    failed = (table["flag"] & int(Flag.BAD_INPUT)) != 0
    return _SOME_FAILED if failed.any() else 0


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
    from astropy import units as u

    from ._progress import progress
    from .adapters import SpectrumArrays, merge_orders, to_arrays
    from .datasets import load_example_spectrum
    from .spectrum_files import read_stars

    velocity = None if arguments.radial_velocity is None else arguments.radial_velocity * u.km / u.s
    spectrum_options = {
        "medium": arguments.medium,
        "radial_velocity": velocity,
        "resolving_power": arguments.resolving_power,
        "mask_policy": arguments.mask_policy,
    }
    told = {
        "file_format": arguments.format,
        "wavelength_unit": arguments.wavelength_unit,
        "flux_unit": arguments.flux_unit,
    }
    names = ["example"] if arguments.example else list(dict.fromkeys(arguments.files))
    stars, sources, notes = [], [], {}
    for name in progress(names, sys.stderr.isatty() and len(names) > 1, description="read"):
        try:
            if arguments.example:
                found, said = to_arrays(load_example_spectrum(), **spectrum_options), []
            else:
                found, said = read_stars(name, **told, **spectrum_options)
            if not found:
                raise InputValueError("there is no spectrum in it")
            if arguments.merge_orders:
                found = [merge_orders(found)]
        except SpectraFMError as error:
            found, said = [SpectrumArrays.unusable(str(error), name)], []
        for note in said:
            notes.setdefault(note, []).append(name)
        stars += [_named(star, row, len(found), name) for row, star in enumerate(found)]
        sources += [name] * len(found)
    for note, where in notes.items():
        # once for all files of a kind
        _complain(f"{where[0]}{f' and {len(where) - 1} others' * (len(where) > 1)}: {note}")
    return stars, sources


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


def _write_plot(filename, fm, arrays, table):
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
            [model] = fm.reconstruct(arrays)
        # as it was read: in vacuum and at rest, with the masks of the policy
        plot_spectrum(arrays, table, ax=figure.subplots(), model=model)
    figure.savefig(filename, dpi=150)


def _add_describe(parser):
    parser.add_argument("model", nargs="?", metavar="MODEL", help="name or folder; by default the packaged weights")


def _run_describe(arguments):
    from .core import SpectraFM

    print(SpectraFM.from_pretrained(arguments.model).describe())
    return 0


def _add_train(parser):
    parser.add_argument("recipe", metavar="RECIPE", help="name of a packaged recipe, or a TOML file")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="folder of the recipe's data set")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="for checkpoint, log and weights")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    _add_device(parser)
    parser.add_argument("--steps", type=int, metavar="N", help="train for another number of steps")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that make stars, for a GPU (0)")


def _run_train(arguments):
    import logging

    from ._weights_files import check_device
    from .training import load_recipe, train_recipe

    check_device(arguments.device, "--device")
    changes = None if arguments.steps is None else {"fit": {"steps": arguments.steps}}
    recipe = load_recipe(arguments.recipe, changes)
    output = Path(arguments.output)
    # those of recipes that this one starts from lie within
    if any(output.rglob("checkpoint.pt")) and not arguments.resume:
        raise InputValueError(f"--output: {arguments.output} holds a checkpoint; add --resume or choose another")
    bar = sys.stderr.isatty()
    if not bar:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folders = (arguments.data, output)
    options = {"resume": arguments.resume, "device": arguments.device, "n_worker": arguments.workers}
    fm = train_recipe(recipe, *folders, progress=bar, **options)
    if fm is None:
        # one of several processes, but not the first
        return 0
    print(fm.describe())
    print(f"weights: {output / 'weights'}")
    return 0


def _add_benchmark(parser):
    parser.add_argument(
        "name",
        metavar="NAME",
        help="gaia-xp: accuracy on held-out stars; speed: time and memory; throughput: of recipes, on a "
        "GPU if there is one; synthesis: emulators on real stars; "
        "synthesis-settings: spectra beside those of a much finer synthesis; "
        "foundation: weights that read every instrument; networks: others trained on the same synthetic stars; "
        "lines: whether weights look at the lines of an element; flags: what flags catch and what they miss; "
        "few-shot: what a hundred real stars add",
    )
    parser.add_argument("--data", default=".", metavar="FOLDER", help="folder of the benchmark's data sets (.)")
    parser.add_argument(
        "--model", metavar="M", help="name or folder of weights; by default those that the benchmark is about"
    )
    parser.add_argument("--no-rivals", action="store_true", help="do not train other methods for comparison")


def _run_benchmark(arguments):
    from .benchmarks import run_benchmark

    for line in run_benchmark(arguments.name, arguments.data, arguments.model, not arguments.no_rivals):
        print(line, flush=True)
    return 0


def _add_synthesize(parser):
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="apogee, gaia_rvs, optical, or a TOML file")
    parser.add_argument("-o", "--output", metavar="GRID", help="file to write, .npz")
    parser.add_argument("--n-star", type=int, metavar="N", help="number of stars, by default the recipe's")
    parser.add_argument("--workers", type=int, default=1, metavar="K", help="number of processes (1)")
    parser.add_argument("--resume", action="store_true", help="go on with the parts that are there, or extend the grid")
    parser.add_argument(
        "--prepare", action="store_true", help="fetch line lists (156 MB from PyPI) and convert atmospheres"
    )
    parser.add_argument(
        "--source", metavar="FOLDER", help="with --prepare: where the packages that hold them are, if they are here"
    )


def _run_synthesize(arguments):
    if not arguments.prepare and not (arguments.recipe and arguments.output):
        arguments.parser.error("give a recipe and --output, or --prepare")
    if arguments.prepare:
        _prepare_synthesis(arguments.source)
    if not arguments.recipe:
        return 0
    from .synthesis.grid import build_grid, load_grid_recipe

    recipe = load_grid_recipe(arguments.recipe)
    if arguments.n_star is not None:
        recipe["n_star"] = arguments.n_star
    grid = build_grid(
        arguments.output,
        **recipe,
        workers=arguments.workers,
        resume=arguments.resume,
        show_progress=sys.stderr.isatty(),
    )
    for failure in grid.failures:
        _complain(f"star {failure['index']}: {failure['reason']}")
    print(f"{len(grid)} spectra in {arguments.output}, {len(grid.failures)} failed")
    return _SOME_FAILED if grid.failures else 0


def _prepare_synthesis(source):
    from .synthesis.atmosphere import prepare_atmospheres
    from .synthesis.linelists import PACKAGES, prepare_linelists

    names = ", ".join(f"{package.name} {package.version}" for package in PACKAGES.values())
    origin = source or f"{names}, which are fetched from PyPI ({sum(p.megabytes for p in PACKAGES.values())} MB)"
    print(f"line lists from {origin}; takes a quarter of an hour", flush=True)
    for path in [prepare_atmospheres(), *prepare_linelists(source)]:
        print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _add_train_emulator(parser):
    parser.add_argument("grid", metavar="GRID", help="grid of synthetic spectra, .npz, complete or not")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder to write the emulator to")
    parser.add_argument("--name", metavar="NAME", help="name of the emulator, by default that of the window")
    parser.add_argument("--components", type=int, default=100, metavar="N", help="principal components (100)")
    parser.add_argument("--held-out", type=float, default=0.1, metavar="F", help="share of stars held out (0.1)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the choice of these stars (0)")


def _run_train_emulator(arguments):
    from .synthesis import load_grid, train_emulator

    emulator = train_emulator(
        load_grid(arguments.grid),
        name=arguments.name,
        n_component=arguments.components,
        held_out=arguments.held_out,
        seed=arguments.seed,
    )
    emulator.save(arguments.output)
    print(emulator.describe())
    print(f"emulator: {arguments.output}")
    return 0


#: What declares a command, what runs it, and what it does in a line.
_COMMANDS = {
    "infer": (_add_infer, _run_infer, "find the labels of stars from their spectra"),
    "describe": (_add_describe, _run_describe, "say what weights give and where they hold"),
    "train": (_add_train, _run_train, "train weights from a recipe and a data set"),
    "synthesize": (_add_synthesize, _run_synthesize, "make a grid of synthetic spectra"),
    "train-emulator": (_add_train_emulator, _run_train_emulator, "train an emulator on a grid of synthetic spectra"),
    "benchmark": (_add_benchmark, _run_benchmark, "measure weights on held-out stars, beside rivals"),
}
