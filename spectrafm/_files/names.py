"""The words by which files name wavelengths, fluxes, errors and masks, in columns and extensions."""

import re

__all__ = ["GOOD_MASKS", "KINDS", "NAMES", "UNITS", "WORDS", "kind_of", "plain_name"]

#: Spellings of units of wavelengths, in small letters, that astropy does not know, or knows in others.
UNITS = {"nm": "nm", "um": "um", "micron": "um", "microns": "um"} | dict.fromkeys(
    ("a", "aa", "ang", "angstrom", "angstroms", "\u00e5", "\u212b"), "Angstrom"
)
UNITS |= dict.fromkeys(("\u00b5m", "\u03bcm"), "um")
#: What is in a column, or an extension.
WORDS = {
    "wavelength": "wavelength",
    "flux": "flux",
    "sigma": "standard deviations",
    "var": "variances",
    "ivar": "inverse variances",
    "mask": "mask",
}
#: Names of columns and extensions by what these hold, as of `plain_name`, those first that are taken first.
NAMES = {
    "wavelength": ("wavelength", "wave", "lambda", "lam", "wl", "wavelengths", "waveobs", "\u03bb"),
    "log": tuple(f"{log}{what}" for log in ("log", "log10") for what in ("lam", "lambda", "wave", "wavelength")),
    "flux": (
        *("flux", "fluxes", "fluxreduced", "fluxdensity", "flam", "flambda", "normflux", "fluxnorm"),
        *("normalizedflux", "normalisedflux", "fluxnormalized", "fluxnormalised", "spectrum", "spec"),
    ),
    "sigma": (
        *("err", "error", "errors", "sigma", "uncertainty", "uncert", "unc", "std", "stddev", "noise", "eflux"),
        *("errs", "\u03c3"),
        *("errreduced", "fluxerr", "fluxerror", "errflux", "sigmaflux", "fluxsigma", "fluxunc", "fluxuncertainty"),
    ),
    "var": ("var", "variance", "fluxvar", "varflux", "fluxvariance", "err2", "error2", "sigma2", "sigma^2", "sigma**2"),
    "ivar": (
        *("ivar", "invvar", "inversevariance", "fluxivar", "ivarflux"),
        *("1/sigma^2", "1/sigma**2", "sigma**-2", "sigma^-2"),
    ),
    # 0 where a pixel is good
    "mask": (
        *("mask", "andmask", "dq", "dataquality", "qual", "quality", "flag", "flags", "bad", "isbad"),
        *("badpix", "badpixel", "badpixels", "bpm", "pixmask", "badpixelmask"),
    ),
}
#: Those of masks that are something else, or 1 where a pixel is good: they are not used, and that is said.
GOOD_MASKS = ("ormask", "good", "isgood", "goodpix", "goodpixel", "goodpixels", "goodmask", "valid", "ok")
# words of what is neither the flux of a star nor belongs to it as its errors do
_OTHER = (
    *GOOD_MASKS,
    *("sky", "background", "bkg", "model", "bestfit", "fit", "template", "residual", "residuals", "continuum", "cont"),
    *("blaze", "flat", "telluric", "response", "resp", "sensitivity", "throughput", "transmission", "snr"),
    *("resolution", "lsf", "psf", "fwhm", "weight", "weights", "exptime"),
)
#: What words in names mean, where a name is more than one word.
KINDS = {name: kind for kind, names in NAMES.items() for name in names} | dict.fromkeys(_OTHER, "other")
KINDS |= {"stat": "var", "sig": "sigma"} | dict.fromkeys(("data", "sci", "science", "primary"), "flux")


def plain_name(name):
    """Write a name without capitals and what separates words.

    Parameters
    ----------
    name : str
        Of a column or an extension.

    Returns
    -------
    str
        A number that is set apart stays so: ``err_2`` is that of a second spectrum, ``err2`` a square.
    """
    return re.sub(r"[\s_.:](?!\d+$)|-(?=[a-z])", "", name.strip().lower())


def kind_of(name):
    """Tell what a column or an extension holds by the words of its name.

    Parameters
    ----------
    name : str
        Its name.

    Returns
    -------
    kind : str or None
        A key of `NAMES`, or "other"; None where no word is known.
    rest : list of str
        Words that are not known.
    """
    if (whole := KINDS.get(plain_name(name))) is not None:
        return whole, []
    words = re.findall("[a-z0-9]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower())
    kinds = [KINDS[word] for word in words if word in KINDS]
    rest = [word for word in words if word not in KINDS]
    of_axis = {"wavelength", "log"} & {*kinds} and {"sigma", "var", "ivar", "mask"} & {*kinds}
    if "other" in kinds or of_axis:
        return "other", rest
    # errors of the flux are no flux
    kinds = [kind for kind in kinds if kind != "flux"] or kinds
    return (kinds[-1] if kinds else None), rest
