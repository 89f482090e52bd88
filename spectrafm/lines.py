"""Strong lines of the elements in the H band and in the optical, to see where a model looks.

Wavelengths are in vacuum and good to some 0.2 Angstrom; close multiplets stand as one line.
Each has been checked against the emulators of the package: seen at a resolving power of
22,500 in the H band, or of 5,000 and of 2,000 in the optical, the flux of a giant or of a
dwarf falls with the abundance of the element, most of all within 1.5 resolution elements
of the line. Where lines crowd, as those of Fe, Ti and Ni in the optical do, nearly half of all
places would pass, so the check is weak there. Some famous lines do not pass: Ca H and K and the
strongest lines of Fe below 3,900 Angstrom are saturated in stars like the Sun, and show the
abundance in their wings, many Angstrom away; higher members of the Brackett series are lost among
lines of metals.
"""

import numpy as np

from ._spectral_units import plain_numbers
from .exceptions import InputValueError

__all__ = ["LINES", "element_lines"]

#: Wavelengths [Angstrom, vacuum] of strong lines, by the label that they determine; lines of
#: hydrogen stand for ``teff``.
LINES = {
    "teff": (
        *(3799.01, 3836.51, 3890.19, 4102.94, 4341.73, 4862.74, 6564.70),
        *(16113.78, 16411.74, 16811.18),
    ),
    "fe_h": (
        *(4261.7, 4272.96, 4309.1, 4326.98, 4384.78, 4405.99, 4416.36, 4892.86, 4921.87, 4958.98),
        *(5228.64, 5271.0, 5329.5, 5373.0, 5407.28, 5436.0, 5448.4, 5574.4, 5588.3, 5617.2),
        *(6138.3, 6193.3, 6232.4, 6395.4, 6401.8, 6413.4, 6432.6, 6496.8, 6679.8),
        *(15172.9, 15298.9, 15494.7, 15625.7, 15635.7, 15690.6, 15793.5, 15802.7, 15899.35, 15910.2, 15925.2, 15932.8),
        *(16011.2, 16044.9, 16076.0, 16120.3, 16169.5, 16217.8, 16230.2, 16320.8, 16402.7, 16440.9, 16526.4, 16566.3),
        *(16657.1, 16861.7),
    ),
    "na_fe": (
        *(4669.88, 4984.2, 5684.22, 5689.78, 5891.58, 5897.56, 6155.94, 6162.44),
        *(16378.33, 16393.34),
    ),
    "mg_fe": (
        *(3830.45, 3833.39, 3839.38, 4168.44, 4353.1, 4704.3, 5168.76, 5174.13, 5185.05, 5530.0, 5712.7),
        *(15235.8, 15425.8, 15697.7, 15745.0, 15753.2, 15770.1, 15883.9, 15890.5, 15893.8, 15958.9, 16369.4, 16629.3),
        16636.5,
    ),
    "al_fe": (
        *(3945.12, 3962.64, 6697.9, 6700.5, 7086.5, 7364.25),
        *(15961.0, 15972.6, 16723.5, 16755.1, 16767.9),
    ),
    "si_fe": (
        *(3906.63, 5666.8, 5686.1, 5709.98, 5773.75, 5794.7, 5950.19, 6133.4, 6156.9, 6239.0, 6245.8),
        *(7291.2, 7407.8, 7418.0, 7425.5),
        *(15365.4, 15381.0, 15562.0, 15837.9, 15888.8, 15892.7, 15964.4, 16064.4, 16099.2, 16168.1, 16190.9, 16220.1),
        *(16246.3, 16385.9, 16439.4, 16685.3, 16832.8),
    ),
    "ca_fe": (
        *(4227.92, 4426.68, 4436.2, 4436.9, 4456.03, 5263.7, 5267.0, 5271.7, 5350.96, 5514.5, 5583.5, 5590.3, 5596.0),
        *(5600.0, 5602.8, 5859.1, 6104.4, 6123.9, 6163.9, 6440.9, 6451.6, 6464.4, 6495.6, 6719.5, 7150.1, 7328.2),
        *(16141.2, 16155.2, 16159.7, 16161.8, 16201.5, 16208.5, 16304.2),
    ),
    "ti_fe": (
        *(3686.2, 3760.4, 3762.4, 4396.3, 4445.05, 4469.75, 4535.2, 4537.2, 4550.9, 4573.2, 4983.1, 4992.4, 5000.9),
        *(5015.6, 5194.4, 5211.8, 5868.1, 5900.9, 6260.5, 6262.8),
        *(15121.4, 15339.0, 15548.0, 15607.1, 15703.3, 15719.9, 15878.0, 16009.2, 16626.1),
    ),
    "cr_fe": (
        *(3606.4, 4255.53, 4276.0, 4290.93, 4647.4, 5205.95, 5207.47, 5209.87, 5299.75, 5347.3, 5411.3),
        *(15684.35, 15864.55, 16019.7, 16126.8),
    ),
    "mn_fe": (
        *(4031.9, 4034.2, 4035.6, 4755.4, 4763.7, 4784.8, 4824.9, 5342.5, 5396.2, 5434.0, 6015.2, 6018.3, 6023.5),
        *(15162.0, 15222.0, 15266.9, 15677.7, 15963.3, 15969.6, 15985.7, 16712.1),
    ),
    "ni_fe": (
        *(3620.4, 3776.6, 3784.6, 3808.2, 3859.4, 4715.73, 5018.97, 5036.8, 5082.5, 5478.4, 5756.2),
        *(6178.5, 6645.5, 6769.6, 7124.2, 7395.6),
        *(15120.8, 15559.9, 15636.9, 16019.1, 16140.6, 16303.8, 16315.0, 16368.6, 16554.35, 16593.8, 16677.7, 16823.35),
        16872.0,
    ),
}


def element_lines(label, low=0.0, high=np.inf):
    """Return where the strong lines of an element are.

    Parameters
    ----------
    label : str
        Name of a label that stands for an element: ``"fe_h"``, ``"mg_fe"``, ...;
        ``"teff"`` for lines of hydrogen.
    low, high : float or `~astropy.units.Quantity` ['length'], optional
        Range of wavelengths; plain numbers are Angstrom.

    Returns
    -------
    numpy.ndarray
        ``(n_line,)`` float64 [Angstrom, vacuum], ascending.

    Raises
    ------
    InputValueError
        There are no lines for such a label; the message lists the known ones. Or an end of the range is no length.
    InputTypeError
        An end of the range is no number.

    Examples
    --------
    >>> from spectrafm.lines import element_lines
    >>> element_lines("al_fe", 16_000, 17_000)
    array([16723.5, 16755.1, 16767.9])
    """
    if label not in LINES:
        raise InputValueError(f"label: no lines of {label!r}; there are lines of {', '.join(LINES)}")
    low, high = (plain_numbers(name, edge, "AA") for name, edge in (("low", low), ("high", high)))
    lines = np.array(LINES[label])
    return lines[(lines >= low) & (lines <= high)]
