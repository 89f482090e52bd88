"""Reading and checking recipes."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..continuum import normalizer_from_dict
from ..exceptions import ConfigError, InputValueError
from ..quantities import get_quantity
from ..stellarperceptron import AugmentationConfig, FitConfig, ModelConfig

__all__ = ["Recipe", "load_recipe", "recipe_names"]

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what training gives.

    Attributes
    ----------
    name : str
        Name of the weights.
    data : str
        Name of the reader in `spectrafm.datasets`.
    labels : tuple of str
        What the model learns to predict.
    model : ModelConfig
        Architecture.
    fit : FitConfig
        Optimisation.
    augmentation : AugmentationConfig
        What is drawn anew at every step.
    known : tuple of str
        Quantities that may be given, beside the labels.
    log : tuple of str
        Quantities whose logarithm is modelled.
    normalizer : dict
        Settings of the normaliser.
    flux_kind : str
        Kind of flux.
    training_data, license, citation : str
        Provenance, for the model card.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    name: str
    data: str
    labels: tuple
    model: ModelConfig
    fit: FitConfig
    augmentation: AugmentationConfig
    known: tuple = ()
    log: tuple = ()
    normalizer: dict = dataclasses.field(default_factory=lambda: {"name": "median"})
    flux_kind: str = "relative_sed"
    training_data: str = ""
    license: str = ""
    citation: str = ""

    def __post_init__(self):
        """Check names and normaliser."""
        for name in (*self.labels, *self.known):
            get_quantity(name, "labels")
        stray = [name for name in self.log if name not in (*self.labels, *self.known)]
        if stray:
            raise ConfigError(f"Recipe {self.name!r}: log names {stray}, which are neither labels nor known")
        normalizer_from_dict(self.normalizer)


def recipe_names():
    """Return the names of the packaged recipes.

    Returns
    -------
    list of str
    """
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_recipe(name, changes=None):
    """Read a packaged recipe, or one of the user's.

    Parameters
    ----------
    name : str or pathlib.Path
        Name of a packaged recipe or path of a TOML file.
    changes : dict of str to dict, optional
        Settings to replace, by section: ``{"fit": {"steps": 100}}``.

    Returns
    -------
    Recipe

    Raises
    ------
    InputValueError
        There is no such recipe; the message lists the packaged ones.
    ConfigError
        Unknown or contradicting settings.
    """
    path = _FOLDER / f"{name}.toml" if str(name) in recipe_names() else Path(name)
    if not path.is_file():
        raise InputValueError(
            f"name: no recipe {str(name)!r}; packaged are {', '.join(recipe_names())}, or give a file"
        )
    try:
        settings = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from error
    sections = {"model": ModelConfig, "fit": FitConfig, "augmentation": AugmentationConfig}
    for section, kind in sections.items():
        settings[section] = kind.from_dict(settings.get(section, {}) | (changes or {}).get(section, {}))
    known = {field.name for field in dataclasses.fields(Recipe)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown settings {unknown}; known are {', '.join(sorted(known))}")
    for name in ("labels", "known", "log"):
        settings[name] = tuple(settings.get(name, ()))
    return Recipe(**settings)
