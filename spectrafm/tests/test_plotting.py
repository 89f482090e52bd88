"""Figures: what is drawn, what the axes say, and that nothing global changes."""

from dataclasses import replace

import astropy.units as u
import matplotlib
import numpy as np
import pytest
from astropy.nddata import StdDevUncertainty
from astropy.table import QTable, Table
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from specutils import Spectrum, SpectrumList

from spectrafm._spectral_units import doppler_factor
from spectrafm.adapters import to_arrays
from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.flags import Flag
from spectrafm.plotting import (
    plot_comparison,
    plot_coverage,
    plot_labels,
    plot_pit,
    plot_sensitivity,
    plot_spectrum,
    plot_z_scores,
    spectrum_size,
)
from spectrafm.results import label_table

LABELS = ("teff", "logg", "fe_h")


@pytest.fixture(autouse=True)
def _agg():
    """Draw without a screen, and close what was drawn."""
    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


def stars(n=6, flag=None, labels=LABELS):
    """Return a table of giants and dwarfs."""
    values = np.linspace([4000, 1.0, -1.0], [6000, 4.5, 0.2], n)[:, : len(labels)]
    flag = np.zeros(n, dtype=int) if flag is None else np.asarray(flag)
    values[(flag & Flag.BAD_INPUT) != 0] = np.nan
    errors = np.broadcast_to([50.0, 0.1, 0.05], (n, 3))[:, : len(labels)]
    return label_table(labels, values, errors, flag=flag, n_pixels_used=np.full(n, 9), snr=np.full(n, 9.0))


def spectrum(unit="W m-2 nm-1", scale=3e-16, n=50, axis=u.nm, bad=(), spike=None):
    """Return a spectrum with errors and perhaps bad pixels."""
    flux = scale * (1 + 0.1 * np.sin(np.arange(n)))
    flux[list(bad)] = np.nan
    if spike is not None:
        flux[spike] *= 1000
    sigma = StdDevUncertainty(np.full(n, 0.02 * scale), unit=u.Unit(unit))
    wavelength = (np.linspace(400, 900, n) * u.nm).to(axis, u.spectral())
    return Spectrum(flux=flux * u.Unit(unit), spectral_axis=wavelength, uncertainty=sigma, meta={"identifier": "Vega"})


def texts(ax):
    """Return all that is written in the axes."""
    return "\n".join(text.get_text() for text in ax.texts)


def legend(ax):
    """Return the texts of the legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_kiel_diagram():
    """Both axes run backwards, units are in the labels, points carry error bars."""
    ax = plot_labels(stars())
    ax.figure.canvas.draw()
    assert ax.xaxis_inverted()
    assert ax.yaxis_inverted()
    assert "[K]" in ax.get_xlabel()
    assert "dex(cm s$^{-2}$)" in ax.get_ylabel()
    assert len(ax.containers) == 1
    assert legend(ax) == ["no flags (6)"]
    assert "[Fe/H]" in ax.figure.axes[1].get_ylabel()


def test_flagged_stars_are_drawn_differently():
    """Flagged stars are open diamonds of their own; stars without labels are not drawn."""
    ax = plot_labels(stars(6, [0, 0, 64, 32, 0, 1]))
    assert legend(ax) == ["flagged (2)", "no flags (3)"]
    flagged, plain = (c for c in ax.collections if c.get_offsets().shape[0] in (2, 3) and hasattr(c, "get_sizes"))
    assert len(flagged.get_offsets()) == 2
    np.testing.assert_array_equal(flagged.get_facecolors(), [[1, 1, 1, 1]])
    assert len(np.unique(plain.get_facecolors(), axis=0)) == 3


def test_with_and_without_units():
    """A table that lost its units gives the same figure."""
    t = stars()
    first, second = (plot_labels(x) for x in (t, Table(t)))
    assert first.get_xlabel() == second.get_xlabel()
    assert first.get_xlim() == second.get_xlim()


def test_other_units():
    """Labels in another unit are drawn, and told, in that which the axis names."""
    t, other = stars(), stars()
    for name in ("teff", "e_teff"):
        other[name] = other[name].to(u.kK)
    first, second = (plot_labels(x) for x in (t, other))
    assert second.get_xlabel().endswith("[K]")
    np.testing.assert_allclose(second.get_xlim(), first.get_xlim())
    assert texts(plot_spectrum(spectrum(), other, row=1)) == texts(plot_spectrum(spectrum(), t, row=1))
    other["teff"] = other["teff"].value * u.s
    with pytest.raises(InputValueError, match=r"table\['teff'\]: unit s, expected K"):
        plot_labels(other)
    wave = QTable({"wavelength": [500.0, 501.0] * u.nm, "sensitivity": [1.0, 2.0] * u.K})
    np.testing.assert_allclose(plot_sensitivity(wave).get_xlim(), (5000, 5010))


def test_other_columns_and_axes():
    """Any two columns go, in axes of the user, with ascending abundance."""
    ax = Figure().subplots()
    assert plot_labels(stars(), x="fe_h", y="logg", color=None, ax=ax) is ax
    assert not ax.xaxis_inverted()
    assert len(ax.figure.axes) == 1


def test_default_color_is_optional():
    """Without `fe_h` in the table there are no colours, unless they were asked for."""
    t = stars(labels=("teff", "logg"))
    assert len(plot_labels(t).figure.axes) == 1
    with pytest.raises(InputValueError, match="color: no column 'mg_fe'; the table has teff"):
        plot_labels(t, color="mg_fe")


def test_many_stars_have_one_typical_cross():
    """Hundreds of error bars would hide the stars."""
    ax = plot_labels(stars(500))
    ax.figure.canvas.draw()
    assert "typical error" in texts(ax)
    assert ax.xaxis_inverted()


@pytest.mark.parametrize("flag", [[1], [1, 1, 1], []])
def test_nothing_to_draw(flag):
    """A table without one usable star says so."""
    ax = plot_labels(stars(len(flag), np.array(flag, dtype=int)))
    ax.figure.canvas.draw()
    assert "no star has both labels" in texts(ax)


def test_a_star_without_color_or_error():
    """A missing colour is grey, a missing error is no bar."""
    values = np.array([[5000, 3.0, np.nan], [4800, 2.5, -0.1]])
    t = label_table(LABELS, values, np.full((2, 3), np.nan), flag=[0, 0], n_pixels_used=[1, 1], snr=[1, 1])
    ax = plot_labels(t)
    ax.figure.canvas.draw()
    grey = [0.7, 0.7, 0.7, 1.0]
    assert any(np.allclose(c, grey) for points in ax.collections for c in points.get_facecolors())


def test_labels_need_a_table():
    """Something else is refused by name."""
    with pytest.raises(InputTypeError, match="table: dict"):
        plot_labels({"teff": [1]})
    with pytest.raises(InputValueError, match="x: no column 'mass'"):
        plot_labels(stars(), x="mass")


def compared(n=6):
    """Return a table of results, and true temperatures that are 20 K lower but for one star."""
    table = stars(n, flag=[Flag.LOW_SNR] + [0] * (n - 1))
    truth = table["teff"].value - 20
    truth[-1] -= 500
    return table, Table({"teff": truth, "e_teff": np.full(n, 30.0)})


def test_predicted_against_true():
    """Truth to the right, both in the unit of the registry, on one scale, with errors of both and the figures."""
    table, truth = compared()
    for given in (truth, QTable({"teff": truth["teff"] / 1000 * u.kK, "e_teff": truth["e_teff"] * u.K})):
        ax = plot_comparison(table, given, "teff")
        ax.figure.canvas.draw()
        drawn = np.concatenate([points.get_offsets() for points in ax.collections if len(points.get_offsets()) > 1])
        np.testing.assert_allclose(drawn, np.stack([truth["teff"], table["teff"].value], axis=1)[1:])
        assert ax.get_xlim() == ax.get_ylim()
        assert ax.get_title("left") == "bias 20, mad_std 0 K"
        assert legend(ax) == ["flagged (1)", "no flags (5)"]
        assert ax.get_xlabel() == r"$T_\mathrm{eff}$, true  [K]"
        assert ax.get_ylabel() == r"$T_\mathrm{eff}$, predicted  [K]"
    _, _, (across, up) = ax.containers[-1]
    assert np.ptp(across.get_segments()[0][:, 0]) == pytest.approx(60)
    assert np.ptp(up.get_segments()[0][:, 1]) == pytest.approx(100)


def test_comparison_of_plain_columns():
    """Only the label itself is needed; stars without both values are not drawn; many have one cross."""
    own = Figure().subplots()
    ax = plot_comparison({"fe_h": [-0.1, 0.2, 0.1]}, {"fe_h": [0.0, np.nan, 0.2]}, "fe_h", ax=own)
    assert ax is own
    assert legend(ax) == ["no flags (2)"]
    assert ax.get_title("left") == "bias \N{MINUS SIGN}0.1, mad_std 0 dex"
    table, truth = compared(300)
    assert "typical error" in texts(plot_comparison(table, truth, "teff"))


def test_comparisons_that_are_none():
    """What is missing is named: the label, its column, stars, their order."""
    table, truth = compared()
    for label, theirs, text in (
        ("eyes", truth, "label: unknown quantity 'eyes'"),
        ("logg", truth, "label: no column 'logg' in truth_table, which has teff, e_teff"),
        ("vsini", truth, "label: no column 'vsini' in table, which has"),
        ("teff", truth[:4], "truth_table"),
        ("teff", {"teff": np.full(6, np.nan)}, "truth_table: no star has a predicted and a true teff"),
    ):
        with pytest.raises(InputValueError, match=text):
            plot_comparison(table, theirs, label)
    with pytest.raises(InputTypeError, match="truth_table: list"):
        plot_comparison(table, [5000.0] * 6, "teff")
    table["identifier"], truth["identifier"] = list("abcdef"), list("abcdfe")
    with pytest.raises(InputValueError, match="the names of the stars in another order"):
        plot_comparison(table, truth, "teff")


@pytest.mark.parametrize("plot", [plot_coverage, plot_pit, plot_z_scores])
def test_calibration_of_quantities(plot):
    """Columns with units are drawn as they are, in whatever unit each is; units of some alone are refused."""
    table, truth = compared()
    plain = table["teff"].value, table["e_teff"].value, np.asarray(truth["teff"]), np.asarray(truth["e_teff"])
    units = plain[0] * u.K, (plain[1] * u.K).to(u.kK), plain[2] * u.K, (plain[3] * u.K).to(u.kK)

    def drawn(stars):
        ax = plot(*stars, ax=Figure().subplots())
        return np.concatenate([one.get_ydata() for one in ax.lines] + [one.get_xy()[:, 1] for one in ax.patches[-1:]])

    np.testing.assert_allclose(drawn(units), drawn(plain))
    with pytest.raises(InputTypeError, match="errors: no unit, but values are in K; expected units of all, or of none"):
        plot(units[0], *plain[1:])
    with pytest.raises(InputTypeError, match="truth: has the unit K"):
        plot(*plain[:2], units[2])
    with pytest.raises(InputValueError, match="truth: unit s, expected K"):
        plot(*units[:2], plain[2] * u.s)


def test_spectrum_axes():
    """The wavelength keeps its unit, powers of ten go from the numbers into the label."""
    ax = plot_spectrum(spectrum())
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "Wavelength  [nm]"
    assert "$10^{-16}$" in ax.get_ylabel()
    assert ax.get_title(loc="left") == "Vega"
    np.testing.assert_allclose(np.nanmedian(ax.lines[0].get_ydata()), 3, rtol=0.1)
    np.testing.assert_allclose(ax.get_xlim(), (400, 900))
    assert len(ax.collections) == 1


def test_room_for_words():
    """The figure grows with the labels, so that no word leaves it."""
    assert spectrum_size() == spectrum_size(stars(1))
    names = ("teff", "logg", "c_fe", "n_fe", "o_fe", "na_fe", "mg_fe", "al_fe", "si_fe", "ca_fe", "ti_fe", "rv_offset")
    table = label_table(names, *np.ones((2, 1, len(names))), flag=[32], n_pixels_used=[9], snr=[1.0])
    width, height = spectrum_size(table)
    assert height > spectrum_size()[1]
    ax = plot_spectrum(spectrum(), table)
    ax.figure.canvas.draw()
    for text in ax.texts:
        box = text.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
        assert 0 <= box.y0 < box.y1 <= height
        assert box.x1 <= width
    words, flags = (text.get_window_extent() for text in ax.texts)
    assert words.y0 > flags.y1
    plt.close(ax.figure)


def test_spectrum_with_model():
    """The model's own spectrum is drawn at its wavelengths, in the unit of the spectrum."""
    star = spectrum()
    flux = (2 * star.flux[::2]).to("W / (m2 Angstrom)")
    model = Spectrum(flux, star.spectral_axis[::2].to("Angstrom"))
    ax = plot_spectrum(star, model=model)
    data, drawn = ax.lines
    np.testing.assert_allclose(drawn.get_xdata(), data.get_xdata()[::2])
    np.testing.assert_allclose(drawn.get_ydata(), 2 * data.get_ydata()[::2], rtol=1e-6)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["error", "flux", "model"]


def test_spectrum_and_model_in_one_frame():
    """Beside a model, which is at rest, a spectrum is drawn at rest; alone as it was observed."""
    rest = spectrum()
    axis = rest.spectral_axis.value * doppler_factor(300.0) * u.nm
    observed = Spectrum(rest.flux, axis, radial_velocity=300 * u.km / u.s)
    np.testing.assert_allclose(plot_spectrum(observed).lines[0].get_xdata(), axis.value)
    data, drawn = plot_spectrum(observed, model=rest).lines
    np.testing.assert_allclose(data.get_xdata(), drawn.get_xdata())


@pytest.mark.parametrize("own", [0.0, 100.0])
def test_spectrum_and_model_by_a_measured_velocity(own):
    """A velocity in the table is the whole: beside a model, what the object says of it is not taken out twice."""
    rest, table = spectrum(), stars(2)
    table["radial_velocity"], table["e_radial_velocity"] = [300.0, np.nan] * u.km / u.s, [1.0, np.nan] * u.km / u.s
    axis = rest.spectral_axis.value * doppler_factor(300.0) * u.nm
    observed = Spectrum(rest.flux, axis, radial_velocity=own * u.km / u.s)
    for thing in (observed, to_arrays(observed)):
        data, drawn = plot_spectrum(thing, table, row=0, model=rest).lines
        np.testing.assert_allclose(data.get_xdata(), drawn.get_xdata())
    data, _ = plot_spectrum([observed, observed], table, row=1, model=rest).lines
    np.testing.assert_allclose(data.get_xdata()[0], 10 * axis.value[0] / doppler_factor(own))


def test_models_that_are_none():
    """Neither a list nor a flux in another unit can be drawn over a spectrum."""
    with pytest.raises(InputTypeError, match="model: SpectrumList, expected one Spectrum, as"):
        plot_spectrum(spectrum(), model=SpectrumList([spectrum()]))
    with pytest.raises(InputValueError, match="model: its flux is in 'no unit', that of the spectrum in 'W / "):
        plot_spectrum(spectrum(), model=spectrum("", 1.0))


@pytest.mark.parametrize(
    ("unit", "scale", "label"),
    [
        ("", 1.0, "Flux"),
        ("1e-17 erg / (s cm2 Angstrom)", 650.0, "$10^{-15}$"),
        ("1e-17 erg / (s cm2 Angstrom)", 1e17, "erg"),
        ("Jy", 1.0, "$10^{"),
    ],
)
def test_flux_units(unit, scale, label):
    """Any flux unit is written in a readable way, with numbers near one."""
    ax = plot_spectrum(spectrum(unit, scale))
    ax.figure.canvas.draw()
    assert label in ax.get_ylabel()
    assert "times" not in ax.get_ylabel()
    assert 0.5 < np.nanmedian(ax.lines[0].get_ydata()) < 20


def test_unit_that_astropy_does_not_know():
    """What a unit means does not matter to a figure."""
    [star] = to_arrays(spectrum("", 1.0))
    star = replace(star, flux_unit="counts/sec")
    model = Spectrum(u.Quantity(star.flux, u.Unit(star.flux_unit, parse_strict="silent")), star.wavelength * u.AA)
    assert plot_spectrum(star, model=model).get_ylabel() == "Flux  [counts/sec]"


def test_bad_pixels_leave_gaps_and_spikes_leave_the_figure():
    """Neither a bad pixel nor a spike sets the limits."""
    ax = plot_spectrum(spectrum(bad=range(10, 20), n=1000, spike=500))
    y = ax.lines[0].get_ydata()
    assert y[500] > 1000
    assert np.isnan(y[10:20]).all()
    assert ax.get_ylim()[1] < 5


def test_no_errors_no_band():
    """Without errors there is no band."""
    plain = Spectrum(flux=np.ones(20) * u.one, spectral_axis=np.linspace(400, 500, 20) * u.nm)
    assert not plot_spectrum(plain).collections


def test_all_bad_pixels():
    """A spectrum without a good pixel is an empty figure with its name, axes and flags, not an error."""
    ax = plot_spectrum(spectrum(bad=range(50)), stars(1, [2]))
    ax.figure.canvas.draw()
    assert [np.isfinite(line.get_ydata()).any() for line in ax.lines] == [False]
    assert not any(path.vertices.size for band in ax.collections for path in band.get_paths())
    assert ax.get_title(loc="left") == "Vega"
    assert ax.get_xlabel() == "Wavelength  [nm]"
    assert "flag 2" in texts(ax)


def test_labels_and_flags_in_words():
    """Beside the spectrum stand the labels with errors, and what the flags mean."""
    ax = plot_spectrum(spectrum(), stars(1))
    ax.figure.canvas.draw()
    assert r"$T_\mathrm{eff}$  4000 ± 50 K" in texts(ax)
    assert "[Fe/H]  \N{MINUS SIGN}1.000 ± 0.050 dex" in texts(ax)
    assert "no flags" in texts(ax)
    flagged = texts(plot_spectrum(spectrum(), stars(1, [32 + 64])))
    assert "flag 96" in flagged
    assert "no usable flux uncertainties" in " ".join(flagged.split())
    assert "signal-to-noise" in flagged
    assert "no value" in texts(plot_spectrum(spectrum(), stars(1, [1])))


def test_text_fits_into_the_figure():
    """The words beside the axes are inside the figure."""
    ax = plot_spectrum(spectrum(), stars(1, [2040]))
    ax.figure.canvas.draw()
    box = ax.figure.bbox
    upper, lower = (text.get_window_extent() for text in ax.texts)
    for extent in (upper, lower):
        assert extent.x0 >= 0
        assert extent.x1 <= box.x1 + 1
        assert extent.y0 >= 0
        assert extent.y1 <= box.y1 + 1
    assert lower.y1 < upper.y0


def test_row_chooses_the_star():
    """Of several stars, the row is that of the table and of the spectra."""
    some = SpectrumList([spectrum(scale=1e-16), spectrum(scale=5e-16)])
    ax = plot_spectrum(some, stars(2), row=1)
    np.testing.assert_allclose(np.nanmedian(ax.lines[0].get_ydata()), 5, rtol=0.1)
    assert "6000 ± 50" in texts(ax)
    for table in (None, stars(2)):
        with pytest.raises(InputValueError, match="row: 2"):
            plot_spectrum(some, table, row=2)


def test_name_chooses_the_row():
    """Where no row is given, labels are those of the star with the name of the spectrum, or of nobody."""
    table = stars(3)
    table["identifier"] = ["Deneb", " Vega", "Sirius"]
    assert texts(plot_spectrum(spectrum(), table)) == texts(plot_spectrum(spectrum(), table, row=1))
    assert texts(plot_spectrum(spectrum(), table[:1])) == texts(plot_spectrum(spectrum(), table, row=0))
    hint = "; give row= from 0 to 2, or the table of this star alone"
    for names, count in ((["Vega", "Vega", "Sirius"], 2), (["Deneb", "Altair", "Sirius"], 0)):
        table["identifier"] = names
        with pytest.raises(InputValueError, match=f"row: left out, and 'Vega' is in {count} of 3 rows{hint}"):
            plot_spectrum(spectrum(), table)
    nameless = Spectrum(spectrum().flux, spectrum().spectral_axis)
    with pytest.raises(InputValueError, match=f"row: left out, and the table has 3 rows, but '0' is no name .*{hint}"):
        plot_spectrum(nameless, stars(3))
    table["identifier"] = [1e17, 2e17, 3e17]
    with pytest.raises(InputValueError, match=r"table\['identifier'\]: 1e\+17 is a floating-point number .*give row="):
        plot_spectrum(spectrum(), table)
    table.remove_column("identifier")
    with pytest.raises(InputValueError, match="'Vega' is in 0 of 3 rows"):
        plot_spectrum(spectrum(), table)


def test_several_spectra_need_a_row():
    """Of several spectra none is drawn in silence, and a table beside them has a row for each."""
    for table in (None, stars(1), stars(2)):
        with pytest.raises(InputValueError, match="row: left out, and there are 2 spectra; expected the number"):
            plot_spectrum([spectrum()] * 2, table)
    with pytest.raises(InputValueError, match="table: 3 rows for 2 spectra; expected one row a spectrum"):
        plot_spectrum([spectrum()] * 2, stars(3), row=1)


def test_room_for_words_of_any_row():
    """Without a row there is room for the flags of every star."""
    table = stars(3, [0, 2040, 32])
    assert spectrum_size(table) == spectrum_size(table, 1) > spectrum_size(table, 2)


def test_frequencies_and_arrays():
    """Axes in Hz are drawn in Angstrom, and so are plain arrays."""
    first = plot_spectrum(spectrum(axis=u.THz))
    second = plot_spectrum(to_arrays(spectrum(axis=u.THz))[0])
    for ax in (first, second):
        assert "Å" in ax.get_xlabel()
        np.testing.assert_allclose(ax.get_xlim(), (4000, 9000))


def test_spectrum_must_be_one():
    """What is no spectrum is refused, also an empty list."""
    with pytest.raises(InputTypeError, match="spectra: got str"):
        plot_spectrum("star.fits")
    with pytest.raises(InputValueError, match="empty list"):
        plot_spectrum([])
    with pytest.raises(InputTypeError, match="table: list"):
        plot_spectrum(spectrum(), [1])
    with pytest.raises(InputTypeError, match="table: a Row, expected the whole Table; give its number as row=2"):
        plot_spectrum(spectrum(), stars(3)[2])
    with pytest.raises(InputValueError, match="spectrum: got NoneType"):
        plot_spectrum([None])


def test_nothing_global_changes():
    """Settings and figures of the user are left alone, and the spectrum too."""
    before, some, figure = dict(matplotlib.rcParams), spectrum(), Figure()
    flux = some.flux.copy()
    plot_spectrum(some, stars(1), ax=figure.subplots())
    plot_labels(stars(), ax=Figure().subplots())
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []
    np.testing.assert_array_equal(some.flux.value, flux.value)
