"""Reading and checking recipes."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .._tokens import FLUX_KINDS
from ..continuum import normalizer_from_dict
from ..exceptions import ConfigError, InputValueError
from ..quantities import get_quantity
from ..stellarperceptron import AugmentationConfig, FitConfig, ModelConfig
from ..stellarperceptron.config import Config, not_counts, not_fractions, not_positive, refuse
from .observation import ObservationConfig
from .observed import RequestConfig
from .train_readout import ReadoutConfig
from .train_second_opinion import OpinionConfig

__all__ = ["DomainConfig", "Recipe", "SourceConfig", "load_recipe", "recipe_names"]

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class DomainConfig(Config):
    """Spectra of one kind.

    Attributes
    ----------
    normalizer : dict
        Settings of the normaliser.
    flux_kind : {"relative_sed", "continuum_normalized"}
        Kind of flux.
    bridges : int
        Most pixels that lack in a gap that the model sees filled, once it is trained, see
        `~spectrafm.arrays.SpectrumArrays.gaps_filled`: for pixels finer than the instrument resolves.
    untold : tuple of str
        Labels that these stars have and such spectra do not tell: what is learnt of them is how often they occur.
    """

    normalizer: dict = dataclasses.field(default_factory=lambda: {"name": "median"})
    flux_kind: str = "relative_sed"
    bridges: int = 0
    untold: tuple = ()

    def __post_init__(self):
        """Check the settings."""
        super().__post_init__()
        normalizer_from_dict(self.normalizer)
        if not isinstance(self.bridges, int) or self.bridges < 0:
            raise ConfigError(f"DomainConfig: bridges must be an integer, 0 or more, not {self.bridges!r}")
        if self.flux_kind not in FLUX_KINDS:
            raise ConfigError(
                f"DomainConfig: flux_kind must be {' or '.join(map(repr, FLUX_KINDS))}, not {self.flux_kind!r}"
            )


@dataclass(frozen=True)
class SourceConfig(Config):
    """Where some of the stars come from.

    Attributes
    ----------
    kind : {"table", "library", "emulator"}
        Real spectra on one wavelength grid, taken as they are; real spectra that are seen
        through instruments of any kind; synthetic spectra, likewise.
    data : str
        Name of the reader in `spectrafm.datasets`, or of the emulator.
    domain : str
        Name of the domain of these spectra.
    labels : tuple of str
        What is asked for; all labels of the recipe that are known when left out.
    share : float
        Share of the stars of a step.
    weight : float
        Weight in the loss.
    validation_fraction : float
        Fraction of real stars set aside, drawn by star.
    resolving_power : float
        Of the spectra of a library.
    moved_by : str
        Name of the emulator that moves stars of a library to labels near their own; they stay
        where they are when left out.
    mixed_with : str
        Folder of an emulator of the same labels, made with other lines, whose lines synthetic stars have in part, see
        `MixedEmulatorSource`; only their own when left out.
    n_pool : int
        Number of synthetic stars whose labels are drawn in advance.
    galactic : float
        Fraction of synthetic stars with abundances that scatter as in the Galaxy.
    observation : ObservationConfig
        Through what libraries and emulators are seen.
    augmentation : AugmentationConfig
        What is drawn anew for a table.
    """

    kind: str
    data: str
    domain: str
    labels: tuple = ()
    share: float = 1.0
    weight: float = 1.0
    validation_fraction: float = 0.1
    resolving_power: float = 2000.0
    moved_by: str = ""
    mixed_with: str = ""
    n_pool: int = 100_000
    galactic: float = 0.5
    observation: ObservationConfig = ObservationConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    def __post_init__(self):
        """Refuse contradictions, all in one error."""
        super().__post_init__()
        problems = []
        if self.kind not in ("table", "library", "emulator"):
            problems.append(f"kind must be 'table', 'library' or 'emulator', not {self.kind!r}")
        problems += not_positive(self, ("share", "weight", "resolving_power", "n_pool"))
        if self.moved_by and self.kind != "library":
            problems.append(f"moved_by is for sources of the kind 'library', not {self.kind!r}")
        if self.mixed_with and self.kind != "emulator":
            problems.append(f"mixed_with is for sources of the kind 'emulator', not {self.kind!r}")
        # each kind is drawn anew in its own way
        kinds = ("augmentation", "observation")
        used, unused = kinds if self.kind == "table" else reversed(kinds)
        if getattr(self, unused) != type(getattr(self, unused))():
            problems.append(f"{unused} is not for sources of the kind {self.kind!r}; they take {used}")
        problems += not_fractions(self, ["galactic"])
        if not 0 < self.validation_fraction < 1:
            problems.append(f"validation_fraction must be between 0 and 1, not {self.validation_fraction!r}")
        refuse("SourceConfig", problems)

    @classmethod
    def from_dict(cls, settings):
        """Build from a dictionary of TOML, as `Config.from_dict`.

        Parameters
        ----------
        settings : dict
            With dictionaries for observation and augmentation.

        Returns
        -------
        SourceConfig
        """
        inner = {"observation": ObservationConfig, "augmentation": AugmentationConfig}
        settings = {k: inner[k].from_dict(v) if k in inner else v for k, v in settings.items()}
        return super().from_dict(settings)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what training gives.

    Attributes
    ----------
    name : str
        Name of the weights.
    labels : tuple of str
        What the model learns to predict.
    model : ModelConfig
        Architecture.
    fit : FitConfig
        Optimisation.
    sources : dict of str to SourceConfig
        Where the stars come from, by name.
    domains : dict of str to DomainConfig
        Kinds of spectra, by name.
    request : RequestConfig
        What stars of libraries and emulators are told and asked.
    known : tuple of str
        Quantities that may be given, beside the labels.
    log : tuple of str
        Quantities whose logarithm is modelled.
    readout : ReadoutConfig, optional
        How the readout is trained, for a model with ``readout_labels``; not used for one without.
    opinion : OpinionConfig, optional
        How the second opinion is learnt, for a model with ``opinion_labels``; not used for one without.
    start : str
        Name of the recipe whose weights training begins with; random ones when left out.
    split_seed : int
        Decides which real stars are set aside; the seed of ``fit`` when left out.
    training_data, license, citation : str
        Provenance, for the model card.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    name: str
    labels: tuple
    model: ModelConfig
    fit: FitConfig
    sources: dict
    domains: dict
    request: RequestConfig = RequestConfig()
    known: tuple = ()
    log: tuple = ()
    readout: ReadoutConfig | None = None
    opinion: OpinionConfig | None = None
    start: str = ""
    split_seed: int | None = None
    training_data: str = ""
    license: str = ""
    citation: str = ""

    def __post_init__(self):
        """Check that everything that is named is there."""
        for name in (*self.labels, *self.known):
            get_quantity(name, "labels")
        if self.split_seed is None:
            object.__setattr__(self, "split_seed", self.fit.seed)
        problems = not_counts(self, ("split_seed",), least=0)
        if self.start and self.start == self.name:
            problems.append("start names the recipe itself")
        stray = [name for name in self.log if name not in (*self.labels, *self.known)]
        if stray:
            problems.append(f"log names {stray}, which are neither labels nor known")
        if not self.sources:
            problems.append("there is no source")
        for name, source in self.sources.items():
            if source.domain not in self.domains:
                problems.append(f"source {name!r} is of the domain {source.domain!r}, which is not described")
            stray = [label for label in source.labels if label not in self.labels]
            if stray:
                problems.append(f"source {name!r} asks for {stray}, which are no labels of the recipe")
        if self.model.readout_labels and self.readout is None:
            problems.append("readout_labels of the model need a section [readout], which is missing")
        looked_at = self.readout.sources if self.model.readout_labels and self.readout else ()
        problems += [
            f"readout: source {name!r} is not one of synthetic stars of the recipe"
            for name in looked_at
            if name not in self.sources or self.sources[name].kind != "emulator"
        ]
        stray = [name for name in self.model.readout_labels if name not in self.labels]
        if stray:
            problems.append(f"readout_labels names {stray}, which are no labels of the recipe")
        n_doubt, n_fit = len(self.readout.doubt) if looked_at else 0, len(self.model.fit_knots)
        if n_doubt not in (0, n_fit):
            problems.append(f"readout: doubt has {n_doubt} factors, expected one for each of {n_fit} fits")
        problems += self._problems_of_opinion()
        for name, domain in self.domains.items():
            if stray := [label for label in domain.untold if label not in self.labels]:
                problems.append(f"untold of domain {name!r} names {stray}, which are no labels of the recipe")
        unused = sorted(set(self.domains) - {source.domain for source in self.sources.values()})
        problems += [f"domain {name!r} has no source" for name in unused]
        refuse(f"Recipe {self.name!r}", problems)

    def _problems_of_opinion(self):
        """Return what is inconsistent about a second opinion."""
        if not self.model.opinion_labels:
            return []
        if self.opinion is None:
            return ["opinion_labels of the model need a section [opinion], which is missing"]
        source = self.sources.get(self.opinion.source)
        if source is None or source.kind != "table":
            return [f"opinion: source {self.opinion.source!r} is not a table of the recipe"]
        stray = [name for name in self.model.opinion_labels if name not in (source.labels or self.labels)]
        problems = [f"opinion_labels names {stray}, which are no labels of {self.opinion.source!r}"] if stray else []
        domain = self.domains.get(source.domain)
        if domain is not None and self.model.opinion_flux != (flux := self.flux[domain.flux_kind]):
            problems.append(
                f"opinion_flux is {self.model.opinion_flux!r}, expected {flux!r} as of {self.opinion.source!r}"
            )
        return problems

    @property
    def flux(self):
        """Name of the tokens of each kind of flux that the domains have."""
        kinds = dict.fromkeys(domain.flux_kind for domain in self.domains.values())
        return {kind: "flux" if len(kinds) == 1 else kind for kind in kinds}


def recipe_names():
    """Return the names of the packaged recipes.

    Returns
    -------
    list of str
    """
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def _read(name, before=()):
    """Return path and settings of a recipe; what it does not say is that of the recipe it extends.

    A file that another one extends is looked for beside that.
    """
    folder = before[-1].parent if before else Path()
    path = _FOLDER / f"{name}.toml" if str(name) in recipe_names() else folder / name
    if not path.is_file():
        where = f"{before[-1]}: extends" if before else "name:"
        raise InputValueError(
            f"{where} no recipe {str(name)!r}; packaged are {', '.join(recipe_names())}, or give a file"
        )
    path = path.resolve()
    if path in before:
        raise ConfigError(f"{path}: extends itself, by way of {', '.join(str(p) for p in before)}")
    try:
        settings = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from error
    if "extends" in settings:
        _, extended = _read(settings.pop("extends"), (*before, path))
        settings = _merge(extended, settings)
    return path, settings


def _merge(settings, changes):
    """Return settings with changes, section by section."""
    inner = {k: _merge(settings[k], v) for k, v in changes.items() if isinstance(v, dict) and k in settings}
    return settings | changes | inner


# sections in which single settings can be replaced, and those of them that only some recipes have
_SECTIONS = {
    "model": ModelConfig,
    "fit": FitConfig,
    "request": RequestConfig,
    "readout": ReadoutConfig,
    "opinion": OpinionConfig,
}
_OPTIONAL = ("readout", "opinion")


def load_recipe(name, changes=None):
    """Read a packaged recipe, or one of the user's.

    Parameters
    ----------
    name : str or pathlib.Path
        Name of a packaged recipe or path of a TOML file.
    changes : dict of str to dict, optional
        Settings to replace, by section: ``{"fit": {"steps": 100}}``. Sections are ``model``, ``fit``, ``request``,
        ``readout`` and ``opinion``.

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
    changes = {} if changes is None else changes
    stray = [section for section, some in changes.items() if section not in _SECTIONS or not isinstance(some, dict)]
    if stray:
        raise ConfigError(
            f"changes: {stray}; expected a dictionary of settings for some of the sections {', '.join(_SECTIONS)}; "
            "write a recipe that extends this one to change anything else"
        )
    path, settings = _read(name)
    for section, kind in _SECTIONS.items():
        if section not in _OPTIONAL or section in settings or section in changes:
            settings[section] = kind.from_dict(settings.get(section, {}) | changes.get(section, {}))
    for section, kind in (("sources", SourceConfig), ("domains", DomainConfig)):
        settings[section] = {name: kind.from_dict(entry) for name, entry in settings.get(section, {}).items()}
    known = {field.name for field in dataclasses.fields(Recipe)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown settings {unknown}; known are {', '.join(sorted(known))}")
    for name in ("labels", "known", "log"):
        settings[name] = tuple(settings.get(name, ()))
    try:
        return Recipe(**settings)
    except TypeError as error:
        raise ConfigError(f"{path}: {str(error).partition('() ')[2]}") from error
