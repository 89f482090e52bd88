"""Fit the distribution of APOGEE stars that synthetic labels are drawn from.

Usage: python tools/fit_apogee_stars.py dr17_labels.npz

The file holds teff, logg, o_fe, mg_fe and fe_h of APOGEE DR17 stars. Writes
spectrafm/synthesis/data/apogee_stars.npz: weights, means and roots of the
covariances of a Gaussian mixture of teff, logg, fe_h, o_fe, mg_fe.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.mixture import GaussianMixture

NAMES = ("teff", "logg", "fe_h", "o_fe", "mg_fe")
OUTPUT = Path(__file__).parents[1] / "spectrafm" / "synthesis" / "data" / "apogee_stars.npz"


def main(path):
    """Fit and write."""
    with np.load(path) as arrays:
        stars = np.stack([arrays[name] for name in NAMES], axis=1)
    stars = stars[np.isfinite(stars).all(axis=1)]
    mean, std = stars.mean(axis=0), stars.std(axis=0)
    mixture = GaussianMixture(24, random_state=0, reg_covar=1e-4, max_iter=300).fit((stars - mean) / std)
    OUTPUT.parent.mkdir(exist_ok=True)
    np.savez(
        OUTPUT,
        weight=mixture.weights_ / mixture.weights_.sum(),
        mean=mixture.means_ * std + mean,
        root=np.linalg.cholesky(mixture.covariances_) * std[:, None],
        names=np.array(NAMES),
    )
    print(f"{len(stars)} stars, log-likelihood per star {mixture.lower_bound_:.3f}, written to {OUTPUT}")


if __name__ == "__main__":
    main(*sys.argv[1:])
