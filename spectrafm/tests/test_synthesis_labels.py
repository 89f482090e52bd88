"""Labels, windows and atmospheres of synthetic stars: what needs neither PySME nor line lists."""

import io
import pickle

import numpy as np
import pytest

from spectrafm._spectral_units import SPEED_OF_LIGHT
from spectrafm.exceptions import CheckpointError, InputTypeError, InputValueError
from spectrafm.quantities import QUANTITIES
from spectrafm.synthesis import (
    LABEL_RANGES,
    SYNTHESIS_LABELS,
    WINDOWS,
    atmosphere_columns,
    complete_labels,
    draw_labels,
    get_window,
    microturbulence,
    prepare_atmospheres,
)
from spectrafm.synthesis._unpickle import ArraysOnly
from spectrafm.synthesis.labels import atmosphere_alpha, draw_abundances


def test_labels_are_known_quantities():
    """Every label has a unit and a description in the registry, and a range."""
    assert set(SYNTHESIS_LABELS) <= set(QUANTITIES)
    assert tuple(LABEL_RANGES) == SYNTHESIS_LABELS


def test_defaults_are_solar_and_usual():
    """Abundances left out are solar, microturbulence and 12C/13C those usual for the gravity."""
    dwarf, giant = complete_labels({"teff": 5777, "logg": 4.44}), complete_labels({"teff": 4300, "logg": 1.5})
    assert tuple(dwarf) == SYNTHESIS_LABELS
    assert all(dwarf[name] == 0 for name in SYNTHESIS_LABELS if name.endswith(("_fe", "_h")))
    assert 0.9 < dwarf["vmicro"] < 1.2
    assert 1.4 < giant["vmicro"] < 1.9
    assert dwarf["c12_c13"] == pytest.approx(89)
    assert 15 <= giant["c12_c13"] <= 25


def test_microturbulence_has_no_jump():
    """The relations of giants and dwarfs blend into each other."""
    logg = np.linspace(0, 5, 501)
    v = np.array([microturbulence(5200.0, g) for g in logg])
    assert np.abs(np.diff(v)).max() < 0.03


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({"teff": 5000, "logg": 3, "xx_fe": 0}, InputValueError, r"unknown label 'xx_fe'; known are: teff, logg"),
        ({"teff": 9000, "logg": 3}, InputValueError, "teff is 9000, expected a value from 3000 to 8000"),
        ({"teff": float("nan"), "logg": 3}, InputValueError, "teff is nan"),
        ({"teff": 5000}, InputValueError, "logg is missing"),
        ({"teff": "hot", "logg": 3}, InputTypeError, "teff is 'hot', expected a number"),
        (5000, InputTypeError, "got int, expected a dict"),
    ],
)
def test_labels_that_cannot_be(labels, error, message):
    """A message names the label, what came and what is allowed."""
    with pytest.raises(error, match=message):
        complete_labels(labels)


def test_alpha_of_the_atmosphere_is_clipped():
    """[alpha/M] is the mean of five elements, within the range of the atmospheres."""
    labels = complete_labels({"teff": 5000, "logg": 3, "o_fe": 0.5, "mg_fe": 0.5})
    assert atmosphere_alpha(labels) == pytest.approx(0.2)
    labels |= dict.fromkeys(("o_fe", "mg_fe", "si_fe", "ca_fe", "ti_fe"), 1.0)
    assert atmosphere_alpha(labels) == 0.6


def test_draws_depend_on_seed_and_number_only():
    """The same star comes again, whatever was drawn before; another seed gives another."""
    assert draw_labels(1, 7) == draw_labels(1, 7)
    assert draw_labels(1, 7) != draw_labels(1, 8)
    assert draw_labels(1, 7) != draw_labels(2, 7)


def test_draws_cover_the_stars():
    """Draws are complete labels, reach metal-poor, hot and cool stars, and none is a carbon star."""
    stars = [draw_labels(0, i) for i in range(400)]
    assert all(complete_labels(star) == star for star in stars)
    column = {name: np.array([star[name] for star in stars]) for name in SYNTHESIS_LABELS}
    assert (column["teff"] < 3900).mean() > 0.05
    assert (column["teff"] > 7000).mean() > 0.05
    assert (column["fe_h"] < -1.5).mean() > 0.05
    assert (column["logg"] < 3.5).mean() > 0.3
    carbon_to_oxygen = 10 ** (8.43 - 8.69 + column["c_fe"] - column["o_fe"])
    assert carbon_to_oxygen.max() < 1
    for name in SYNTHESIS_LABELS[3:-2]:
        assert 0.15 < column[name].std() < 0.5, name
    # dredge-up: nitrogen is up in giants, and carbon is down
    giant = column["logg"] < 2
    assert np.median(column["n_fe"][giant] - column["c_fe"][giant]) > 0.3


def test_abundances_of_a_star_follow_the_galaxy():
    """What is left to be known of a star depends on seed and number only, and lies on the trends of the Galaxy."""
    poor, rich = (draw_abundances(3, 7, 4800.0, 2.5, fe_h) for fe_h in (-1.5, 0.1))
    assert tuple(poor) == SYNTHESIS_LABELS
    assert (poor["teff"], poor["logg"], poor["fe_h"]) == (4800.0, 2.5, -1.5)
    assert draw_abundances(3, 7, 4800.0, 2.5, -1.5) == poor
    assert draw_abundances(3, 8, 4800.0, 2.5, -1.5)["vmicro"] != poor["vmicro"]
    assert poor["mg_fe"] == pytest.approx(0.35)
    assert rich["mg_fe"] == pytest.approx(0.0)
    # a giant has been mixed
    assert poor["n_fe"] > 0 > poor["c_fe"]


def test_scatter_of_draws():
    """With the scatter of the Galaxy, alpha elements go together; effective temperatures stay as widely spread."""
    wide, narrow = (
        np.array([[star[k] for k in ("mg_fe", "ti_fe", "teff")] for star in (draw_labels(0, i, s) for i in range(300))])
        for s in (1.0, 0.3)
    )
    assert np.corrcoef(narrow.T)[0, 1] > 0.7 > 0.5 > np.corrcoef(wide.T)[0, 1]
    assert narrow[:, 2].std() == pytest.approx(wide[:, 2].std(), rel=0.2)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_windows_sample_what_they_store(window):
    """Stored wavelengths are even in the logarithm, reach beyond the window, and resolve what they hold."""
    log = np.log(window.wavelength)
    assert np.allclose(np.diff(log), window.step / SPEED_OF_LIGHT, rtol=1e-9)
    assert log[0] == pytest.approx(np.log(window.lower) - window.margin / SPEED_OF_LIGHT)
    assert log[-1] >= np.log(window.upper) + window.margin / SPEED_OF_LIGHT
    assert window.step * 2 < SPEED_OF_LIGHT / window.base_resolving_power
    assert get_window(window.name) is get_window(window) is window


def test_unknown_windows():
    """An unknown window is an error that lists the known ones."""
    with pytest.raises(InputValueError, match=r"unknown 'k_band'; known are: apogee, gaia_rvs, optical"):
        get_window("k_band")
    with pytest.raises(InputTypeError, match="got int, expected a name or a Window"):
        get_window(5)


def test_atmospheres_that_are_not_prepared(tmp_path, monkeypatch):
    """Without the file, the message gives the command that makes it."""
    from spectrafm.synthesis import atmosphere

    monkeypatch.setenv("SPECTRAFM_CACHE", str(tmp_path))
    atmosphere._networks.cache_clear()
    try:
        with pytest.raises(InputValueError, match=r"no model atmospheres at .*; make them with: spectrafm synth"):
            atmosphere_columns(5777, 4.44, 0, 0)
    finally:
        atmosphere._networks.cache_clear()


class _Evil:
    def __reduce__(self):
        return print, ("it ran",)


def test_only_arrays_are_unpickled(capsys):
    """Arrays come through the unpickler, anything else is refused and not run."""
    array = np.arange(3.0)
    assert (ArraysOnly(io.BytesIO(pickle.dumps({"x": array}))).load()["x"] == array).all()
    with pytest.raises(pickle.UnpicklingError, match=r"holds builtins.print, which is no array"):
        ArraysOnly(io.BytesIO(pickle.dumps(_Evil()))).load()
    assert capsys.readouterr().out == ""


def test_networks_of_another_kind(tmp_path, monkeypatch):
    """A file that is not the network expected is an error, not an atmosphere."""
    from spectrafm.synthesis import atmosphere

    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "atmosnet_c3k_300neurons_cool.pkl"
    monkeypatch.setattr(atmosphere, "package_folder", lambda name: tmp_path)
    with pytest.raises(CheckpointError, match=r"atmosnet_c3k_300neurons_cool.pkl of atmosnet cannot be read"):
        prepare_atmospheres()
    network = {"labels": ["TEFF", "LOGG", "FE_H", "ALPHA_FE"], "w_array_0": np.zeros((2, 2))}
    file.write_bytes(pickle.dumps([network] * 4))
    with pytest.raises(CheckpointError, match=r"w_array_0 has shape \(2, 2\), expected finite \(300, 4\)"):
        prepare_atmospheres()
