"""Grids of synthetic spectra: drawn, synthesized in parallel, stored in parts.

Star i of a grid depends on the seed and on i alone. Parts hold consecutive stars and
are written whole, one after the other, into ``grid.npz.parts``: a grid can be stopped
at any moment, resumed, extended, and read before it is complete.
"""

import contextlib
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import re
import signal
import tomllib
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .._progress import progress
from ..exceptions import ConfigError, InputValueError, SpectraFMError
from ._cache import write_npz
from .labels import SYNTHESIS_LABELS, draw_labels
from .windows import Window, get_window

__all__ = ["Grid", "build_grid", "load_grid", "load_grid_recipe"]

_RECIPES = Path(__file__).parent / "recipes"
#: So many processes may end one after the other, each with a star, before it is an error.
_MAX_DEATHS = 5
_PART = re.compile(r"part-(\d{6})\.npz")


@dataclass(frozen=True)
class Grid:
    """Synthetic spectra of many stars on one wavelength grid.

    Attributes
    ----------
    wavelength : numpy.ndarray
        ``(n_pixel,)`` float64 [Angstrom, vacuum].
    flux : numpy.ndarray
        ``(n_star, n_pixel)`` float32, continuum-normalised.
    labels : numpy.ndarray
        ``(n_star, n_label)`` float64, in the units of `label_names`' quantities.
    label_names : tuple of str
        Names of the columns of ``labels``.
    index : numpy.ndarray
        ``(n_star,)`` number of each star in the sequence of its seed.
    failures : list of dict
        Stars without a spectrum: ``index``, ``labels`` and ``reason``.
    meta : dict
        Window, seed and versions.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    labels: np.ndarray
    label_names: tuple
    index: np.ndarray
    failures: list
    meta: dict

    def __len__(self):
        """Return the number of stars."""
        return len(self.index)


def _part_folder(path):
    path = Path(path)
    return path.with_name(path.name + ".parts")


def _synthesize_star(synthesizer, labels, window):
    """Return the flux of a star, or the reason in words if there is none."""
    try:
        flux = np.asarray(synthesizer(labels, window), dtype=np.float32)
    # RuntimeError: errors of the compiled library
    except (SpectraFMError, RuntimeError) as error:
        return str(error)
    n_pixel = len(window.wavelength)
    if flux.shape != (n_pixel,) or not np.isfinite(flux).all():
        return f"the flux has shape {flux.shape} or is not finite; expected ({n_pixel},)"
    return flux


def _work(connection, synthesizer, window):
    """Synthesize the stars that come through a connection, in a process of its own."""
    # an interrupt from the keyboard is for the process that started this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send(_synthesize_star(synthesizer, connection.recv(), window))


class _Worker:
    """A process that synthesizes one star after the other.

    The compiled library ends the process where its equation of state does not
    converge, without an error: the star is then lost, and only it.
    """

    def __init__(self, synthesizer, window):
        self.arguments = synthesizer, window
        self.index = None
        self._start()

    def _start(self):
        # not forked: a copy of a process with threads may hang
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, *self.arguments), daemon=True)
        self.process.start()
        other.close()

    def give(self, index, labels):
        """Let it work on a star."""
        self.index = index
        try:
            self.connection.send(labels)
        except ConnectionError:
            # it has ended already; take() will notice
            return

    def take(self):
        """Return flux or reason of its star, and whether the process is alive; if not, a new one takes its place."""
        try:
            return self.connection.recv(), True
        # it may have ended before its star was read, or with a flux half sent
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            self.connection.close()
            self._start()
            return f"the compiled library ended the process (exit code {code})", False

    def stop(self):
        """End it."""
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _settings(seed, window):
    """Return a fingerprint of the settings that a part must share with its grid."""
    text = json.dumps([seed, asdict(window), list(SYNTHESIS_LABELS)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _part_files(path):
    """Return the parts of a grid by the number of their first star."""
    folder = _part_folder(path)
    found = (_PART.fullmatch(file.name) for file in sorted(folder.glob("part-*.npz")))
    return {int(match[1]): folder / match[0] for match in found if match}


@contextlib.contextmanager
def _opened(path):
    """Open a file of a grid, or raise an error if it is none."""
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            yield stored
    except SpectraFMError:
        raise
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputValueError(
            f"path: {path} cannot be read as a grid of spectra ({error}); expected a file that build_grid, or "
            "spectrafm synthesize, has written"
        ) from error


def build_grid(
    path,
    window,
    n_star,
    seed=0,
    *,
    n_worker=1,
    part_size=20,
    resume=False,
    progress=False,
    synthesizer=None,
):
    """Synthesize the spectra of random stars.

    Stopped at any moment, it goes on where it was when called again with ``resume``;
    with a larger ``n_star`` it extends the grid.

    Parameters
    ----------
    path : str or pathlib.Path
        File of the grid, ``.npz``. Parts are written into a folder of that name with
        ``.parts`` behind it, and stay there.
    window : str or Window
        Name or window.
    n_star : int
        Number of stars, those without a spectrum included.
    seed : int, optional
        Seed of the labels.
    n_worker : int, optional
        Number of processes.
    part_size : int, optional
        Number of stars in a part.
    resume : bool, optional
        Whether to go on where there are parts already.
    progress : bool, optional
        Show a progress bar, where tqdm is installed.
    synthesizer : callable, optional
        Function of complete labels and window that returns the flux at
        ``window.wavelength``; by default `synthesize_normalized`. It must be
        importable by name where there are several workers.

    Returns
    -------
    Grid
        The whole grid.

    Raises
    ------
    InputValueError
        A number is not positive, the file is not an npz file, or there are parts and
        ``resume`` is not set.
    ConfigError
        The parts that are there are of another seed, window or part size.
    """
    from .. import __version__

    window, path = get_window(window), Path(path)
    for name, value in (("n_star", n_star), ("n_worker", n_worker), ("part_size", part_size)):
        if value < 1:
            raise InputValueError(f"{name}: got {value}, expected at least 1")
    if path.suffix != ".npz":
        raise InputValueError(f"path: got {path.name!r}, expected a name that ends in .npz")
    parts, settings = _part_files(path), _settings(seed, window)
    if parts and not resume:
        raise InputValueError(f"path: {_part_folder(path)} holds parts of a grid; set resume to go on, or remove it")
    missing = []
    for first in range(0, n_star, part_size):
        last = min(first + part_size, n_star)
        if first in parts:
            with _opened(parts[first]) as stored:
                if str(stored["settings"]) != settings:
                    raise ConfigError(f"{parts[first]} is of another seed or window; remove it to start anew")
                # the last part of a grid that is extended may be short
                if int(stored["range"][1]) >= last:
                    continue
        missing.append((first, last))
    if any(first % part_size for first in parts):
        raise ConfigError(f"part_size: the parts in {_part_folder(path)} do not have {part_size} stars each")
    if synthesizer is None:
        from .synthesizer import check_ready, synthesize_normalized

        check_ready(window)
        synthesizer = synthesize_normalized
    meta = {"seed": int(seed), "window": asdict(window), "version": __version__}
    for first, last, stars in _synthesize_parts(missing, seed, synthesizer, window, n_worker, progress):
        _write_part(_part_folder(path) / f"part-{first:06d}.npz", first, last, stars, settings, meta)
    grid = load_grid(path)
    _write(path, grid)
    return grid


def _synthesize_parts(missing, seed, synthesizer, window, n_worker, show_progress):
    """Yield first and last index of each part, and for each star its labels and its flux or why there is none."""
    ends = dict(missing)
    stars = ((i, first) for first, last in missing for i in range(first, last))
    bar = progress(stars, show_progress, total=sum(b - a for a, b in missing), description="synthesize")
    queue = iter(bar)
    found, part_of = {first: {} for first in ends}, {}
    pool, deaths = [_Worker(synthesizer, window) for _ in range(min(n_worker, len(missing)))], 0
    try:
        busy = [worker for worker in pool if _give_next(worker, queue, part_of, seed)]
        while busy:
            for connection in multiprocessing.connection.wait([worker.connection for worker in busy]):
                worker = next(worker for worker in busy if worker.connection is connection)
                index, (flux, alive) = worker.index, worker.take()
                deaths = 0 if alive else deaths + 1
                if deaths > _MAX_DEATHS:
                    raise SpectraFMError(f"{deaths} processes ended one after the other; the last one: {flux}")
                first = part_of.pop(index)
                found[first][index] = flux
                if len(found[first]) == ends[first] - first:
                    yield first, ends[first], dict(sorted(found.pop(first).items()))
                if not _give_next(worker, queue, part_of, seed):
                    busy.remove(worker)
    finally:
        for worker in pool:
            worker.stop()


def _give_next(worker, queue, part_of, seed):
    """Give a worker the next star; return whether there is one."""
    index, first = next(queue, (None, None))
    if index is None:
        return False
    part_of[index] = first
    worker.give(index, draw_labels(seed, index))
    return True


def _write_part(file, first, last, stars, settings, meta):
    good = [index for index, flux in stars.items() if not isinstance(flux, str)]
    labels = [list(draw_labels(meta["seed"], index).values()) for index in good]
    failures = [
        {"index": index, "labels": draw_labels(meta["seed"], index), "reason": reason}
        for index, reason in stars.items()
        if isinstance(reason, str)
    ]
    n_pixel = len(Window(**meta["window"]).wavelength)
    arrays = {
        "index": np.array(good, dtype=np.int64),
        "labels": np.array(labels, dtype=np.float64).reshape(len(good), len(SYNTHESIS_LABELS)),
        "flux": np.array([stars[index] for index in good], dtype=np.float32).reshape(len(good), n_pixel),
        "failures": np.array(json.dumps(failures)),
        "range": np.array([first, last]),
        "settings": np.array(settings),
        "meta": np.array(json.dumps(meta)),
    }
    write_npz(file, arrays)


def _write(path, grid):
    arrays = {name: getattr(grid, name) for name in ("wavelength", "flux", "labels", "index")}
    arrays["label_names"] = np.array(grid.label_names)
    arrays["failures"] = np.array(json.dumps(grid.failures))
    arrays["meta"] = np.array(json.dumps(grid.meta))
    write_npz(path, arrays)


def load_grid(path):
    """Read a grid, complete or not.

    Parameters
    ----------
    path : str or pathlib.Path
        File of the grid. If there are parts that the file does not contain, or if there is
        no file, the parts are read.

    Returns
    -------
    Grid

    Raises
    ------
    InputValueError
        There is neither a file nor parts, or the file is no grid.
    """
    path = Path(path)
    parts = _part_files(path)
    newest = max((file.stat().st_mtime for file in parts.values()), default=0.0)
    if path.is_file() and path.stat().st_mtime >= newest:
        with _opened(path) as stored:
            return Grid(
                *(stored[name] for name in ("wavelength", "flux", "labels")),
                tuple(str(name) for name in stored["label_names"]),
                stored["index"],
                json.loads(str(stored["failures"])),
                json.loads(str(stored["meta"])),
            )
    if not parts:
        raise InputValueError(f"path: there is neither {path} nor {_part_folder(path)}; make it with build_grid")
    index, labels, flux, failures, meta = [], [], [], [], None
    for file in parts.values():
        with _opened(file) as stored:
            index.append(stored["index"])
            labels.append(stored["labels"])
            flux.append(stored["flux"])
            failures += json.loads(str(stored["failures"]))
            meta = json.loads(str(stored["meta"]))
    window = Window(**meta["window"])
    return Grid(
        window.wavelength,
        np.concatenate(flux),
        np.concatenate(labels),
        SYNTHESIS_LABELS,
        np.concatenate(index),
        failures,
        meta,
    )


def load_grid_recipe(recipe):
    """Read the recipe of a grid.

    Parameters
    ----------
    recipe : str or pathlib.Path
        Name of a packaged recipe, or a TOML file with ``window``, ``n_star`` and
        ``seed``.

    Returns
    -------
    dict
        These three.

    Raises
    ------
    InputValueError
        There is no such recipe, or it is not TOML.
    ConfigError
        Something in it is missing, not known or of the wrong type.
    """
    packaged = {path.stem: path for path in sorted(_RECIPES.glob("*.toml"))}
    path = packaged.get(str(recipe), Path(recipe))
    if not path.is_file():
        raise InputValueError(f"recipe: {recipe} is neither a file nor one of {', '.join(packaged)}")
    try:
        found = tomllib.loads(path.read_text())
    except ValueError as error:
        raise InputValueError(f"recipe: {path} is not TOML ({error})") from error
    expected = {"window": str, "n_star": int, "seed": int}
    if {name: type(value) for name, value in found.items()} != expected:
        raise ConfigError(f"recipe: {path} holds {found}; expected a window's name and integers n_star and seed")
    get_window(found["window"])
    return found
