"""Set the thresholds of the flags of packaged weights that were trained before there were any.

    python tools/set_thresholds.py small gaia_xp --data FOLDER

Training does this by itself (spectrafm.training.train.calibrate).
"""

import argparse
from pathlib import Path

from spectrafm import SpectraFM
from spectrafm.diagnostics import set_thresholds
from spectrafm.training import load_recipe
from spectrafm.training.train import build_stream

PRETRAINED = Path(__file__).resolve().parents[1] / "spectrafm" / "pretrained"


def main():
    """Write spectrafm.json of each of the weights anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="names of packaged weights, which are those of their recipes")
    parser.add_argument("--data", required=True, help="folder of the data sets of the recipes")
    arguments = parser.parse_args()
    for name in arguments.names:
        folder = PRETRAINED / name
        fm = SpectraFM.load(folder)
        _, calibration = build_stream(load_recipe(name), arguments.data, fm.model.vocabulary)
        set_thresholds(fm, calibration)
        fm.info.write(folder / "spectrafm.json")
        for domain in fm.info.domains:
            print(name, domain.name, domain.density_threshold, domain.thresholds)


if __name__ == "__main__":
    main()
