"""Quality flags of a row of results.

One integer bitmask a star. Zero means that nothing was found wrong.
"""

from enum import IntFlag

import numpy as np

from .exceptions import InputTypeError

__all__ = ["MASKING_FLAGS", "Flag", "describe_flags"]


class Flag(IntFlag):
    """Bits of the ``flag`` column returned by `spectrafm.SpectraFM.infer`; zero means that nothing was found wrong."""

    BAD_INPUT = 1
    NO_GOOD_PIXELS = 2
    NO_OVERLAP = 4
    FEW_PIXELS = 8
    PARTIAL_COVERAGE = 16
    NO_UNCERTAINTY = 32
    LOW_SNR = 64
    OUTSIDE_LABEL_RANGE = 128
    LARGE_UNCERTAINTY = 256
    UNUSUAL_SPECTRUM = 512
    SAMPLING_MISMATCH = 1024
    POOR_RECONSTRUCTION = 2048
    WRONG_VELOCITY = 4096
    WRONG_MEDIUM = 8192
    EMISSION_OR_SPIKES = 16384
    SATURATED = 32768
    HIGH_SNR = 65536
    CONTRADICTS_KNOWN = 131072


#: Flags whose rows carry no labels: their values are masked.
MASKING_FLAGS = Flag.BAD_INPUT | Flag.NO_GOOD_PIXELS | Flag.NO_OVERLAP

_MEANING = {
    Flag.BAD_INPUT: "the spectrum could not be used, a warning says why; labels masked",
    Flag.NO_GOOD_PIXELS: "no good pixel at all; labels masked",
    Flag.NO_OVERLAP: "no good pixel in any wavelength range of the weights; labels masked",
    Flag.FEW_PIXELS: "fewer good pixels than the weights were trained to expect",
    Flag.PARTIAL_COVERAGE: "less of the wavelength range than training stars had",
    Flag.NO_UNCERTAINTY: "no usable flux uncertainties were given",
    Flag.LOW_SNR: "signal-to-noise ratio below the range of the training stars",
    Flag.OUTSIDE_LABEL_RANGE: "a label, predicted or given, is beyond those of the training stars",
    Flag.LARGE_UNCERTAINTY: "a predicted error is more than five times that of usual stars",
    Flag.UNUSUAL_SPECTRUM: "the spectrum is unlike the training spectra",
    Flag.SAMPLING_MISMATCH: "pixel spacing, or resolving power, far from that of the training spectra",
    Flag.POOR_RECONSTRUCTION: "the model's own spectrum does not fit the data",
    Flag.WRONG_VELOCITY: "the spectrum is not at rest; give its radial velocity, or have it measured",
    Flag.WRONG_MEDIUM: "its velocity is that of air taken for vacuum, or the reverse",
    Flag.EMISSION_OR_SPIKES: "pixels far above the continuum: emission, cosmic rays",
    Flag.SATURATED: "plateaus of pixels at the same largest value",
    Flag.HIGH_SNR: "flux uncertainties smaller than those of the training stars; they were raised to these",
    Flag.CONTRADICTS_KNOWN: "a label that was given is more than five sigma from what the spectrum says",
}


def describe_flags(flag):
    """Return the meaning of a flag value in words.

    Parameters
    ----------
    flag : int or array_like of int
        A value of the ``flag`` column, or the column.

    Returns
    -------
    list of str, or list of lists of str
        ``"NAME: meaning"`` for each bit that is set, lowest bit first; for a column, a list for each row.

    Raises
    ------
    InputTypeError
        ``flag`` is not an integer.
    """
    given = np.asarray(flag)
    if given.dtype.kind not in "iu" and given.size:
        raise InputTypeError(f"flag: {flag!r}, expected an integer, or the column 'flag' of a table of labels")
    if given.ndim:
        return [describe_flags(one) for one in given]
    return [f"{bit.name}: {_MEANING[bit]}" for bit in Flag if int(given) & bit]
