"""Emulators: training, precision, the way in for labels, files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked
from safetensors.torch import load_file, save_file

from spectrafm.adapters import to_arrays
from spectrafm.cli import main
from spectrafm.exceptions import CheckpointError, InputTypeError, InputValueError, SpectraFMWarning
from spectrafm.synthesis import Emulator, LabelFit, emulator_errors, load_emulator, train_emulator
from spectrafm.synthesis.emulator import _PRETRAINED
from spectrafm.synthesis.emulator_labels import label_inputs
from spectrafm.synthesis.gaussian_process import _leave_one_out, fit_gaussian_process
from spectrafm.synthesis.grid import _write
from spectrafm.tests.fake_grid import LABELS, LOWER, UPPER, fake_emulator, fake_flux, fake_grid

SUN = {"teff": 5777.0, "logg": 4.4, "vmicro": 1.0}
# errors that the emulators in the package must not exceed: median, 95th percentile of the star's RMS
TARGETS = {"apogee": (0.0015, 0.01), "gaia_rvs": (0.0015, 0.01), "optical": (0.003, 0.015)}


def _labels(n_star=6, seed=5):
    return torch.tensor(fake_grid(n_star, seed).labels)


def test_held_out_stars_are_met():
    """Spectra of stars that it has not seen are right to a fraction of a per cent."""
    emulator = fake_emulator()
    grid = fake_grid(100, seed=1)
    errors = emulator_errors(emulator, grid.labels, grid.flux)
    assert errors["all"]["n"] == 100
    assert errors["all"]["median"] < 5e-4
    assert errors["all"]["rms_95"] < 4e-3
    assert emulator.info.errors["all"]["n"] == 15
    assert {"teff < 4000", "fe_h < -2"}.isdisjoint(emulator.info.errors)
    assert sum(e["n"] for name, e in emulator.info.errors.items() if "teff" in name) == 15


def test_more_stars_are_better():
    """The error on held-out stars falls with the size of the grid."""
    test = fake_grid(60, seed=1)
    rms = []
    for n_star in (30, 150):
        emulator = train_emulator(fake_grid(n_star), n_component=40, n_step=20)
        rms.append(emulator_errors(emulator, test.labels, test.flux)["all"]["rms"])
    assert rms[1] < 0.5 * rms[0]


def test_training_is_reproducible():
    """The same grid and seed give the same emulator; another seed holds out other stars."""
    first, again, other = (train_emulator(fake_grid(40), n_component=9, n_step=5, seed=s) for s in (0, 0, 1))
    labels = _labels()
    torch.testing.assert_close(first.flux(labels), again.flux(labels), rtol=0, atol=0)
    assert first.info == again.info
    assert first.info.errors != other.info.errors


def test_leave_one_out_is_what_it_says():
    """Error and slope of the closed form are those of leaving out one star after the other."""
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.normal(size=(12, n))) for n in (3, 2))
    weight = torch.tensor([2.0, 0.5], dtype=torch.float64)
    kernel = torch.exp(-0.5 * torch.cdist(x, x) ** 2) + 0.1 * torch.eye(12, dtype=torch.float64)
    value, slope = _leave_one_out(kernel, y, weight)
    errors = []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        predicted = kernel[i, others] @ torch.linalg.solve(kernel[others][:, others], y[others])
        errors.append((((y[i] - predicted) ** 2) * weight).sum().sqrt())
    torch.testing.assert_close(value, torch.stack(errors).mean().log())
    change = torch.tensor(rng.normal(size=(12, 12)))
    change = 1e-6 * (change + change.T)
    ahead, behind = (_leave_one_out(kernel + sign * change, y, weight)[0] for sign in (1, -1))
    torch.testing.assert_close((slope * change).sum(), (ahead - behind) / 2, rtol=1e-5, atol=0)


def test_gaussian_process_goes_through_its_points():
    """With exact points the process is exact at them, and a linear function is found whole."""
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.normal(size=(60, 2)))
    y = torch.stack((torch.sin(x[:, 0]), x @ torch.tensor([0.5, -0.3], dtype=torch.float64)), dim=1)
    process, error = fit_gaussian_process(x, y, torch.ones(2, dtype=torch.float64), n_step=30)
    assert error < 0.05
    torch.testing.assert_close(process(x), y, rtol=0, atol=0.02)
    far = 3 * x[:5]
    torch.testing.assert_close(
        process(far)[:, 1], far @ torch.tensor([0.5, -0.3], dtype=torch.float64), rtol=0, atol=0.1
    )


def test_batch_is_as_single():
    """A star's spectrum does not depend on its batch mates; one dimension in, one out."""
    emulator, labels = fake_emulator(), _labels()
    vsini = torch.linspace(1, 30, len(labels))
    together = emulator.flux(labels, resolving_power=15_000.0, vsini=vsini)
    for star, v in zip(range(len(labels)), vsini, strict=True):
        alone = emulator.flux(labels[star], resolving_power=15_000.0, vsini=v.item())
        assert alone.shape == (emulator.info.n_pixel,)
        torch.testing.assert_close(together[star], alone, rtol=0, atol=2e-5)


def test_precision():
    """Single precision is good to 1e-4 of the continuum, also inside autocast."""
    emulator, labels = fake_emulator(), _labels(50)
    exact = emulator.to(dtype=torch.float64).flux(labels)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(emulator.flux(labels).double(), exact, rtol=0, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(emulator.flux(labels).double(), exact, rtol=0, atol=1e-4)


def test_slopes():
    """Slopes in the labels are those of small differences, also at a star of the grid itself."""
    emulator = fake_emulator().to(dtype=torch.float64)
    labels = torch.tensor(fake_grid().labels[:3], requires_grad=True)
    weight = torch.linspace(-1, 1, emulator.info.n_pixel, dtype=torch.float64)
    [slope] = torch.autograd.grad((emulator.flux(labels) * weight).sum(), labels)
    steps = torch.diag(torch.tensor([1.0, 1e-3, 1e-3, 1e-3, 1e-3], dtype=torch.float64))
    with torch.no_grad():
        for i, step in enumerate(steps):
            ahead, behind = ((emulator.flux(labels + sign * step) * weight).sum(-1) for sign in (1, -1))
            torch.testing.assert_close(slope[:, i], (ahead - behind) / (2 * step[i]), rtol=2e-3, atol=1e-4)


def test_inputs_tell_labels_apart():
    """Inputs are finite, with more carbon than oxygen too, and hold what molecules are made of."""
    names = ("teff", "logg", "fe_h", "c_fe", "n_fe", "o_fe", "ti_fe", "vmicro", "c12_c13")
    labels = torch.tensor([[5040.0, 2.0, -1.0, 0.26, 0.1, v, 0.2, 1.0, 20.0] for v in (1.0, -0.5)], dtype=torch.float64)
    inputs = label_inputs(labels, names)
    assert torch.isfinite(inputs).all()
    assert (inputs[:, 0] == 1).all()
    hydroxyl = np.log10(0.9)
    expected = [0.1, -1.64, 6.16, hydroxyl, hydroxyl + 4.4, hydroxyl - 0.8, hydroxyl - 0.8 + 6.9]
    np.testing.assert_allclose(inputs[0, -7:].numpy(), expected)
    assert label_inputs(labels[:, :2], names[:2]).shape == (2, 2)


def test_spectrum():
    """A Spectrum at rest, in vacuum, over the window, that carries its labels."""
    emulator = fake_emulator()
    spectrum = emulator.spectrum(**SUN, fe_h=-0.3, mg_fe=0.1)
    assert spectrum.flux.unit == u.one
    assert spectrum.spectral_axis.unit == u.AA
    assert spectrum.flux.shape == spectrum.spectral_axis.shape
    assert LOWER <= spectrum.spectral_axis.value[0] < spectrum.spectral_axis.value[-1] <= UPPER
    assert spectrum.meta["emulator"] == "fake"
    assert spectrum.meta["fe_h"] == -0.3
    inside = (emulator.wavelength >= LOWER) & (emulator.wavelength <= UPPER)
    expected = fake_flux([[5777, 4.4, -0.3, 0.1, 1.0]])[0, inside]
    np.testing.assert_allclose(spectrum.flux.value, expected, atol=0.01)


def test_units_are_converted():
    """Quantities and plain numbers in the usual units mean the same."""
    emulator = fake_emulator()
    plain = emulator.spectrum(**SUN, fe_h=-0.3, vsini=5, spectral_axis=np.linspace(16010, 16090, 50) * u.AA)
    units = emulator.spectrum(
        teff=5.777 * u.kK,
        logg=u.Dex(4.4, u.dex(u.cm / u.s**2)),
        vmicro=1000 * u.m / u.s,
        fe_h=-0.3 * u.dex,
        vsini=5000 * u.m / u.s,
        spectral_axis=np.linspace(1.601, 1.609, 50) * u.um,
    )
    np.testing.assert_allclose(units.flux.value, plain.flux.value, atol=1e-6)
    assert units.spectral_axis.unit == u.um
    assert emulator.spectrum(**SUN | {"logg": 4.4 * u.dex}).meta["logg"] == 4.4
    energies = (np.linspace(16010, 16090, 50) * u.AA).to(u.eV, u.spectral())
    np.testing.assert_allclose(
        emulator.spectrum(**SUN, fe_h=-0.3, vsini=5, spectral_axis=energies).flux.value, plain.flux.value, atol=1e-6
    )


def test_many_stars():
    """Arrays of labels or of parameters give a two-dimensional Spectrum."""
    emulator = fake_emulator()
    spectrum = emulator.spectrum(**SUN, fe_h=[-1.0, 0.0, 0.2], resolving_power=10_000)
    assert spectrum.flux.shape == (3, len(spectrum.spectral_axis))
    np.testing.assert_array_equal(spectrum.meta["fe_h"], [-1.0, 0.0, 0.2])
    alone = emulator.spectrum(**SUN, fe_h=0.0, resolving_power=10_000)
    np.testing.assert_allclose(spectrum.flux.value[1], alone.flux.value, atol=2e-5)
    velocities = emulator.spectrum(**SUN, radial_velocity=[-30.0, 50.0] * u.km / u.s)
    assert velocities.flux.shape[0] == 2


def test_velocity_round_trip():
    """A spectrum with a radial velocity says so, and the adapters bring it back to rest."""
    emulator = fake_emulator()
    axis = np.linspace(16_020, 16_080, 400) * u.AA
    [star] = to_arrays(emulator.spectrum(**SUN, radial_velocity=80.0, spectral_axis=axis))
    rest = emulator.spectrum(**SUN, spectral_axis=star.wavelength * u.AA)
    np.testing.assert_allclose(star.flux, rest.flux.value, atol=1e-4)


def test_defaults_follow_the_rest():
    """Labels left out are solar, and microturbulence that usual for the star."""
    emulator = fake_emulator()
    array = emulator.label_array({"teff": 5777.0, "logg": 4.4})
    assert array.shape == (5,)
    assert dict(zip(LABELS, array, strict=True))["fe_h"] == 0
    assert 0.8 < array[LABELS.index("vmicro")] < 1.3
    assert emulator.label_array({"teff": [5000, 5777.0], "logg": 4.4}).shape == (2, 5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"teff": 9000}, InputValueError, r"labels: teff is 9000; expected a value from 40\d\d.* to 64\d\d.* K, where"),
        ({"fe_h": [0, np.nan]}, InputValueError, "labels: fe_h is nan; expected a value from"),
        ({"age": 4.5}, InputValueError, "unknown label 'age'; this emulator knows teff, logg, fe_h, mg_fe, vmicro"),
        ({"teff": 5000 * u.km}, InputValueError, "teff: unit km, expected K"),
        ({"teff": "hot"}, InputTypeError, "teff: 'hot'; expected numbers, plain in K or with a unit"),
        ({"fe_h": True}, InputTypeError, "fe_h: True; expected numbers"),
        ({"teff": [[5000.0]]}, InputValueError, r"teff: shape \(1, 1\)"),
        ({"teff": [5000, 5100], "fe_h": [0, 0.1, 0.2]}, InputValueError, "labels: 2 of teff, 3 of fe_h; expected"),
        ({"teff": [5000, 5100], "vsini": [1, 2, 3]}, InputValueError, r"labels, vsini: \[2, 3\] values"),
        ({"vsini": 5 * u.K}, InputValueError, "vsini: unit K, expected km / s"),
        ({"vsini": [5 * u.km / u.s, 5 * u.K]}, InputTypeError, "vsini: .*; expected one unit for all of them"),
        ({"vsini": MaskedColumn([3.0, 4.0], mask=[0, 1])}, InputValueError, "vsini: 1 of 2 masked; expected a number"),
        ({"fe_h": Masked([0.0] * u.dex, mask=True)}, InputValueError, "fe_h: 1 of 1 masked"),
        ({"vsini": -5}, InputValueError, "vsini: -5; expected a velocity"),
        ({"resolving_power": 1e5}, InputValueError, "resolving_power: 100000; expected a positive number up to 25000"),
        ({"spectral_axis": [15_000, 15_500] * u.AA}, InputValueError, "spectral_axis: from 15000.00 to 15500.00 Angst"),
        ({"spectral_axis": [16_050, 16_060]}, InputTypeError, r"spectral_axis: got list of shape \(2,\); expected"),
        ({"spectral_axis": [] * u.AA}, InputTypeError, r"spectral_axis: got Quantity of shape \(0,\); expected"),
        ({"radial_velocity": 900.0}, InputValueError, "this emulator covers 16032.* to 16164.* Angstrom at this velo"),
        ({"spectral_axis": [1, 2] * u.kg}, InputValueError, "spectral_axis: the spectral axis is in 'kg'"),
    ],
)
def test_what_cannot_be(changes, error, message):
    """Labels and parameters out of range or unknown are told with name, value and what is allowed."""
    with pytest.raises(error, match=message):
        fake_emulator().spectrum(**SUN | changes)


def test_units_of_columns():
    """Columns are in their units, as quantities are, and masks that hide nothing do not matter."""
    emulator = fake_emulator()
    row = SUN | {"radial_velocity": 0.0}
    expected = emulator.spectrum(**row | {"vsini": [20.0], "fe_h": [-0.2]}).flux
    for vsini in (
        Column([20_000.0], unit="m / s"),
        MaskedColumn([20_000.0], unit="m / s", mask=[False]),
        Masked([20.0] * u.km / u.s),
        [20_000 * u.m / u.s],
    ):
        spectrum = emulator.spectrum(**row | {"vsini": vsini, "fe_h": Column([-0.2], unit="dex")})
        np.testing.assert_array_equal(spectrum.flux, expected)
        assert spectrum.meta["vsini"] == [20.0]
    plain = emulator.label_array({"teff": Column([5.777], unit="kK"), "logg": Column([4.4], unit="dex")})
    np.testing.assert_array_equal(plain, emulator.label_array({"teff": [5777.0], "logg": 4.4 * u.dex("cm / s2")}))


def test_missing_labels():
    """Temperature and gravity must be given; labels by name are a dictionary; tensors have all labels."""
    emulator = fake_emulator()
    with pytest.raises(InputValueError, match="labels: teff is missing; give teff and logg at least"):
        emulator.spectrum(logg=4.4)
    with pytest.raises(InputTypeError, match="labels: got list; expected a dict"):
        emulator.label_array([5777, 4.4])
    with pytest.raises(
        InputValueError, match=r"labels: shape \(2, 3\); expected \(n_star, 5\) or \(5,\), in the order"
    ):
        emulator.flux(torch.zeros(2, 3))


def test_extrapolation_is_told():
    """A star far from all of the grid gives a spectrum with a warning."""
    grid = fake_grid(400)
    rich = (grid.labels[:, 0] < 5200) == (grid.labels[:, 2] > -0.75)
    part = replace(grid, labels=grid.labels[rich], flux=grid.flux[rich], index=grid.index[rich])
    emulator = train_emulator(part, n_component=10, n_step=5)
    with pytest.warns(SpectraFMWarning, match="1 of 2 spectra are extrapolated: the grid has no star near teff 6400"):
        emulator.spectrum(teff=[6400, 4500], logg=3.0, vmicro=1.0, fe_h=0.3)


def test_describe():
    """The description has window, labels with ranges and units, and errors."""
    emulator = fake_emulator()
    text = emulator.describe()
    assert "16000 to 16100 Angstrom (vacuum)" in text
    assert "resolving power 25000, 40 components, 135 stars" in text
    assert all(f"  {name} " in text for name in LABELS)
    assert "dex(cm s-2)" in text
    assert "rms 95 %" in text
    assert repr(emulator) == f"<Emulator 'fake': 16000 to 16100 Angstrom, R = 25000, {', '.join(LABELS)}>"


def test_save_and_load(tmp_path):
    """What comes back is what was saved, to the last bit, and small."""
    emulator, labels = fake_emulator(), _labels()
    emulator.save(tmp_path / "fake")
    again = load_emulator(tmp_path / "fake")
    torch.testing.assert_close(again.flux(labels), emulator.flux(labels), rtol=0, atol=1e-5)
    for name, tensor in emulator._tensors.items():
        torch.testing.assert_close(again._tensors[name], tensor, rtol=0, atol=0)
    assert again.info == emulator.info
    assert isinstance(again, Emulator)
    assert sum(path.stat().st_size for path in (tmp_path / "fake").iterdir()) < 100_000


def test_damaged_files(tmp_path):
    """Files that are missing, damaged or of another version are told."""
    with pytest.raises(InputValueError, match="name: no emulator 'nowhere'; expected one of the packaged"):
        load_emulator("nowhere")
    with pytest.raises(CheckpointError, match="config.json not found"):
        load_emulator(tmp_path)
    fake_emulator().save(tmp_path)
    config, tensors = tmp_path / "config.json", tmp_path / "emulator.safetensors"
    good, state = config.read_text(), load_file(tensors)
    config.write_text(json.dumps(json.loads(good) | {"format": 99}))
    with pytest.raises(CheckpointError, match="has format 99, this version reads 2; train it again"):
        load_emulator(tmp_path)
    config.write_text(json.dumps(json.loads(good) | {"n_pixel": 7}))
    with pytest.raises(CheckpointError, match=r"damaged \(components of another shape\)"):
        load_emulator(tmp_path)
    config.write_text(good)
    save_file({k: v for k, v in state.items() if k != "mean"}, tensors)
    with pytest.raises(CheckpointError, match=r"damaged \(KeyError\('mean'\)\)"):
        load_emulator(tmp_path)
    tensors.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        load_emulator(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"flux": np.full((150, 617), 2.0)},
            "grid: 150 stars, first number 0, have labels that are not finite or a flux",
        ),
        ({"labels": np.full((150, 5), np.nan)}, "grid: 150 stars, first number 0, have labels that are not finite"),
        ({"label_names": LABELS[:4]}, r"grid: labels \(150, 5\), flux \(150, 617\), 4 names, 617 wavelengths"),
    ],
)
def test_bad_grids(changes, message):
    """A grid that cannot be is refused before any work."""
    with pytest.raises(InputValueError, match=message):
        train_emulator(replace(fake_grid(), **changes))


@pytest.mark.parametrize("changes", [{"held_out": 0.0}, {"held_out": 0.9}, {"n_component": 0}])
def test_bad_settings(changes):
    """Some stars must be held out, and most must not."""
    with pytest.raises(InputValueError, match="held_out, n_component: "):
        train_emulator(fake_grid(30), **changes)


def test_command_line(tmp_path, capsys):
    """`spectrafm train-emulator` reads a grid, prints the errors, and writes what can be loaded."""
    _write(tmp_path / "grid.npz", fake_grid(60))
    options = ["--components", "20", "--held-out", "0.2", "--name", "toy"]
    assert main(["train-emulator", str(tmp_path / "grid.npz"), "-o", str(tmp_path / "toy"), *options]) == 0
    assert "12 " in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  all "))
    emulator = load_emulator(tmp_path / "toy")
    assert emulator.info.name == "toy"
    assert emulator.info.grid["training"]["n_train"] == 48
    assert main(["train-emulator", str(tmp_path / "none.npz"), "-o", str(tmp_path / "toy")]) == 2
    assert "path: there is neither" in capsys.readouterr().err


_PACKAGED = sorted(path.parent.name for path in _PRETRAINED.glob("*/config.json"))


@pytest.mark.parametrize("name", _PACKAGED)
def test_packaged_emulators(name):
    """Emulators in the package are small, and know a common star."""
    emulator = load_emulator(name)
    assert sum(path.stat().st_size for path in (_PRETRAINED / name).iterdir()) < 3_200_000
    flux = emulator.spectrum(teff=4800, logg=2.5, fe_h=-0.3, mg_fe=0.1).flux.value
    assert 0.005 < flux.min() < 0.8
    # lines crowd in the blue
    assert (0.6 if name == "optical" else 0.8) < np.median(flux) <= 1.0


@pytest.mark.parametrize("name", _PACKAGED)
def test_packaged_emulators_reach_their_targets(name, request):
    """On stars held out, errors are within the targets of the project."""
    if name == "optical":
        reason = "95th percentile of the RMS 0.033, target 0.015: seven of 49 stars are cooler than 4000 K"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    median, rms = TARGETS[name]
    errors = load_emulator(name).info.errors["all"]
    assert errors["median"] <= median
    assert errors["rms_95"] <= rms


def test_names_are_exported():
    """The names that users need are in `spectrafm.synthesis`."""
    import spectrafm.synthesis as package

    wanted = {"Emulator", "LabelFit", "cramer_rao_bound", "fit_labels", "load_emulator", "observe", "train_emulator"}
    assert wanted <= set(package.__all__)
    assert LabelFit.__module__ == "spectrafm.synthesis.fitting"
