"""The registry of quantities and the flags."""

import re

import numpy as np
import pytest
from astropy import units as u
from astropy.io.votable.ucd import check_ucd

from spectrafm.exceptions import InputTypeError, InputValueError
from spectrafm.flags import MASKING_FLAGS, Flag, describe_flags
from spectrafm.quantities import QUANTITIES, Quantity, column_unit, forget_quantity, get_quantity, register_quantity


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=lambda q: q.name)
def test_units_and_ucds(quantity):
    """Units are astropy's, UCDs those of the controlled vocabulary."""
    u.Unit(quantity.unit)
    u.Unit(quantity.error_unit)
    assert check_ucd(quantity.ucd, check_controlled_vocabulary=True)
    assert quantity.kind in ("label", "photometry", "observation")


def test_unknown_quantity():
    """An unknown name lists the known ones."""
    with pytest.raises(InputValueError, match=r"labels: unknown quantity 'beauty'; known are: teff, logg"):
        get_quantity("beauty")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("feh", "'fe_h'"), ("[Fe/H]", "'fe_h'"), ("metallicity", "'fe_h' or 'm_h'"), ("[α/M]", "'alpha_m'")),
        *(("Teff", "'teff'"), ("TEFF", "'teff'"), ("tefff", "'teff'"), ("log_g", "'logg'"), ("loog", "'logg'")),
        *(("MGFE", "'mg_fe'"), ("mg_h", "'mg_fe'"), ("resolving_power", "'ln_resolving_power'"), ("vmic", "'vmicro'")),
    ],
)
def test_similar_names(name, meant):
    """A name that is nearly one, or a common word for it, is told what was meant."""
    with pytest.raises(InputValueError, match=re.escape(f"{name!r} (did you mean {meant}?); known are: teff, ")):
        get_quantity(name)


@pytest.mark.parametrize("name", ["th_fe", "beauty", "x", "", 5, None, ["teff"]])
def test_nothing_similar(name):
    """Other elements, other words, and what is no text have nothing similar."""
    with pytest.raises(InputValueError, match=re.escape(f"labels: unknown quantity {name!r}; known are: teff")):
        get_quantity(name)


def test_forget_quantity():
    """What was registered can be registered anew once it is forgotten; what is built in stays."""
    register_quantity(Quantity("p_rot", "h", "h", "", "Rotation period"))
    with pytest.raises(InputValueError, match=r"give .* another name, or call .*forget_quantity\('p_rot'\) first"):
        register_quantity(Quantity("p_rot", "d", "d", "", "Rotation period"))
    forget_quantity("p_rot")
    register_quantity(Quantity("p_rot", "d", "d", "", "Rotation period"))
    assert column_unit("p_rot") == "d"
    for _ in range(2):
        forget_quantity("p_rot")
        assert "p_rot" not in QUANTITIES
    with pytest.raises(InputValueError, match="name: 'teff' is a quantity of the package, in K; expected"):
        forget_quantity("teff")
    with pytest.raises(InputValueError, match="give .* another name$"):
        register_quantity(Quantity("teff", "kK", "kK", "", ""))


def test_units_of_columns():
    """Columns have the units of their labels, errors their own, and others none."""
    assert [column_unit(name) for name in ("logg", "e_logg", "c12_c13", "e_snr", "snr")] == [
        "dex(cm s-2)",
        "dex",
        "",
        None,
        None,
    ]


def test_flags():
    """Every flag is one bit with a meaning, and the flags that mask say so."""
    for bit in Flag:
        assert bit.value & (bit.value - 1) == 0
        [text] = describe_flags(bit)
        assert text.startswith(f"{bit.name}: ")
        assert ("labels masked" in text) == bool(bit & MASKING_FLAGS)
    assert describe_flags(0) == []
    column = np.array([0, 40])
    assert describe_flags(column) == [describe_flags(0), describe_flags(40)]
    assert describe_flags(column[:0]) == []
    with pytest.raises(InputTypeError, match="flag: 'LOW_SNR', expected an integer, or the column 'flag'"):
        describe_flags("LOW_SNR")
    assert len(describe_flags(int(Flag.LOW_SNR | Flag.FEW_PIXELS))) == 2
