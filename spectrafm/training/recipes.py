"""Reading and checking recipes."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .._tokens import FLUX_KINDS
from ..continuum import normalizer_from_dict
from ..exceptions import ConfigError, InputTypeError, InputValueError
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
        Largest number of missing pixels in a gap that is interpolated before inference; 0 fills none. For pixels
        finer than the instrument resolves, see `~spectrafm.arrays.SpectrumArrays.gaps_filled`.
    untold : tuple of str
        Labels that the stars have but that spectra of this kind do not constrain. They are learnt, and not returned.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    normalizer: dict = dataclasses.field(default_factory=lambda: {"name": "median"})
    flux_kind: str = "relative_sed"
    bridges: int = 0
    untold: tuple[str, ...] = ()

    def __post_init__(self):
        """Check the settings."""
        super().__post_init__()
        normalizer_from_dict(self.normalizer)
        problems = not_counts(self, ("bridges",), least=0)
        if self.flux_kind not in FLUX_KINDS:
            problems.append(f"flux_kind must be {' or '.join(map(repr, FLUX_KINDS))}, not {self.flux_kind!r}")
        refuse("DomainConfig", problems)


_KINDS = ("table", "library", "emulator")
# kinds of sources that read a setting, where not all do
_READ_BY = {
    "validation_fraction": ("table", "library"),
    "resolving_power": ("library",),
    "moved_by": ("library",),
    "mixed_with": ("emulator",),
    "n_pool": ("emulator",),
    "galactic": ("emulator",),
    "observation": ("library", "emulator"),
    "augmentation": ("table",),
}


@dataclass(frozen=True)
class SourceConfig(Config):
    """Where some of the stars come from.

    A setting that sources of its kind do not read is refused, unless it has its default.

    Attributes
    ----------
    kind : {"table", "library", "emulator"}
        ``"table"``: real spectra on one wavelength grid, used as they are. ``"library"``: real spectra that are
        observed with simulated instruments. ``"emulator"``: synthetic spectra, observed likewise.
    data : str
        Name of a data set, see `spectrafm.datasets.register_reader`, or of the emulator.
    domain : str
        Name of the domain of these spectra.
    labels : tuple of str
        Labels to predict; all labels of the recipe that the stars have when left out.
    share : float
        Share of the stars of a step.
    weight : float
        Weight in the loss.
    validation_fraction : float
        Fraction of real stars set aside, drawn by star.
    resolving_power : float
        Resolving power of the spectra of a library.
    moved_by : str
        Name of the emulator that moves stars of a library to labels near their own; they are not moved
        when left out.
    mixed_with : str
        Folder of an emulator of the same labels, made with another line list, that is mixed with the emulator
        of the source, see `MixedEmulatorSource`; none when left out.
    n_pool : int
        Number of synthetic stars whose labels are drawn in advance.
    galactic : float
        Fraction of synthetic stars with abundances that scatter as in the Galaxy.
    observation : ObservationConfig
        Simulated instruments for libraries and emulators.
    augmentation : AugmentationConfig
        Augmentation of a table.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    kind: str
    data: str
    domain: str
    labels: tuple[str, ...] = ()
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
        if self.kind not in _KINDS:
            problems.append(f"kind must be 'table', 'library' or 'emulator', not {self.kind!r}")
        problems += not_positive(self, ("share", "weight", "resolving_power", "n_pool"))
        default = {field.name: field.default for field in dataclasses.fields(self)}
        problems += [
            f"{name} is for sources of the kind {' or '.join(map(repr, kinds))}, not {self.kind!r}"
            for name, kinds in _READ_BY.items()
            if self.kind in _KINDS and self.kind not in kinds and getattr(self, name) != default[name]
        ]
        problems += not_fractions(self, ["galactic"])
        if not 0 < self.validation_fraction < 1:
            problems.append(f"validation_fraction must be between 0 and 1, not {self.validation_fraction!r}")
        refuse("SourceConfig", problems)

    @classmethod
    def from_dict(cls, settings):
        """Build from a dictionary, as `Config.from_dict`.

        Parameters
        ----------
        settings : dict
            Field names and values, with dictionaries for ``observation`` and ``augmentation``.

        Returns
        -------
        SourceConfig
        """
        return super().from_dict(_with_sections(settings, _SECTIONS_OF_SOURCE))


@dataclass(frozen=True)
class Recipe(Config):
    """Everything that decides the result of training.

    Attributes
    ----------
    name : str
        Name of the weights.
    labels : tuple of str
        What the model learns to predict.
    model : ModelConfig
        Architecture.
    fit : FitConfig
        Optimisation. Its ``validation_fraction`` is refused: each source has its own.
    sources : dict of str to SourceConfig
        Where the stars come from, by name.
    domains : dict of str to DomainConfig
        Kinds of spectra, by name.
    request : RequestConfig
        What is given and asked for of stars of libraries and emulators; refused where there are none.
    known : tuple of str
        Quantities that may be given as input, in addition to the labels.
    log : tuple of str
        Quantities whose logarithm is modelled.
    readout : ReadoutConfig, optional
        How the readout is trained, for a model with ``readout_labels``; not used for one without.
    opinion : OpinionConfig, optional
        How the second opinion is trained, for a model with ``opinion_labels``; not used for one without.
    start : str
        Name of the recipe whose weights training starts from; random weights when left out.
    start_share : float
        Share of those weights in the mean of them and the trained ones, which is what is kept: it forgets less
        (Wortsman et al. 2022, arXiv:2109.01903).
    split_seed : int
        Seed of the draw of the real stars that are set aside; the seed of ``fit`` when left out.
    training_data, license, citation : str
        Provenance, for the model card.

    Raises
    ------
    ConfigError
        Listing everything that is inconsistent.
    """

    name: str
    labels: tuple[str, ...]
    model: ModelConfig
    fit: FitConfig
    sources: dict[str, SourceConfig]
    domains: dict[str, DomainConfig]
    request: RequestConfig = RequestConfig()
    known: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    readout: ReadoutConfig | None = None
    opinion: OpinionConfig | None = None
    start: str = ""
    start_share: float = 0.0
    split_seed: int | None = None
    training_data: str = ""
    license: str = ""
    citation: str = ""

    def __post_init__(self):
        """Check that everything that is named is there."""
        super().__post_init__()
        for argument in ("labels", "known"):
            for name in getattr(self, argument):
                get_quantity(name, argument)
        if self.split_seed is None:
            object.__setattr__(self, "split_seed", self.fit.seed)
        problems = not_counts(self, ("split_seed",), least=0)
        problems += self._problems_of_names()
        if self.fit.validation_fraction != FitConfig().validation_fraction:
            problems.append("fit: validation_fraction is not read, as each source has its own; set it there")
        if self.request != RequestConfig() and all(source.kind == "table" for source in self.sources.values()):
            problems.append("request is not read, as all sources are tables; set it in the augmentation of each")
        if self.start and self.start == self.name:
            problems.append("start names the recipe itself")
        problems += not_fractions(self, ("start_share",))
        if self.start_share and not self.start:
            problems.append("start_share is a share of weights to start from, and there is no start")
        if not self.sources:
            problems.append("there is no source")
        for name, source in self.sources.items():
            if source.domain not in self.domains:
                problems.append(f"source {name!r} is of the domain {source.domain!r}, which is not described")
            elif source.kind != "table" and self.domains[source.domain].normalizer.get("name") != "continuum":
                problems.append(
                    f"source {name!r} is of the kind {source.kind!r}, so the normalizer of domain {source.domain!r} "
                    f"must have the name 'continuum', not {self.domains[source.domain].normalizer!r}"
                )
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

    @classmethod
    def from_dict(cls, settings):
        """Build from a dictionary, as `Config.from_dict`.

        Parameters
        ----------
        settings : dict
            Field names and values, with a dictionary of settings for each section, source and domain. The sections
            ``model``, ``fit`` and ``request`` take their defaults when left out.

        Returns
        -------
        Recipe
        """
        if isinstance(settings, dict):
            settings = {name: {} for name in _SECTIONS if name not in _OPTIONAL} | settings
            for name, kind in (("sources", SourceConfig), ("domains", DomainConfig)):
                if isinstance(entries := settings.get(name), dict):
                    settings[name] = _with_sections(entries, dict.fromkeys(entries, kind), f"{name}.")
        return super().from_dict(_with_sections(settings, _SECTIONS))

    def _problems_of_names(self):
        """Return what is wrong with the names of labels and other quantities."""
        problems = [] if self.labels else ["labels must name at least one quantity"]
        for argument in ("labels", "known", "log"):
            names = getattr(self, argument)
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                problems.append(f"{argument} names {repeated} more than once")
        if both := [name for name in self.known if name in self.labels]:
            problems.append(f"known names {both}, which are labels, and labels may be given anyway; leave them out")
        if stray := [name for name in self.log if name not in (*self.labels, *self.known)]:
            problems.append(f"log names {stray}, which are neither labels nor known")
        power = "ln_resolving_power"
        observed = [name for name, source in self.sources.items() if source.kind != "table"]
        if observed and power in (*self.labels, *self.known):
            problems.append(f"{power} is given with the stars of {', '.join(observed)} anyway; leave it out")
        return problems

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
    def splits(self):
        """How the stars of each source of real ones are split, as of `~spectrafm.weights_info.WeightsInfo`."""
        return {
            name: {"data": source.data, "seed": self.split_seed, "fraction": source.validation_fraction}
            for name, source in self.sources.items()
            if source.kind != "emulator"
        }

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
    """Return the settings of a recipe; those that it leaves out are those of the recipe that it extends.

    A file that another one extends is looked for beside that.
    """
    if not isinstance(name, (str, Path)):
        raise InputTypeError(
            f"{f'{before[-1]}: extends' if before else 'name'}: {name!r}, expected the name of a recipe or of a file"
        )
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
        extended = _read(settings.pop("extends"), (*before, path))
        settings = _merge(extended, settings)
    return settings


def _merge(settings, changes):
    """Return settings with changes, section by section."""
    both = [k for k, v in changes.items() if isinstance(v, dict) and isinstance(settings.get(k), dict)]
    inner = {k: _merge(settings[k], changes[k]) for k in both}
    return settings | changes | inner


def _with_sections(settings, kinds, prefix=""):
    """Return settings with configurations in place of the dictionaries of some sections."""
    made = {}
    for name, kind in kinds.items():
        if not isinstance(settings, dict) or isinstance(settings.get(name), (kind, type(None))):
            continue
        try:
            made[name] = kind.from_dict(settings[name])
        except ConfigError as error:
            raise ConfigError(f"[{prefix}{name}] {error}") from error
    return settings | made if made else settings


_SECTIONS_OF_SOURCE = {"observation": ObservationConfig, "augmentation": AugmentationConfig}
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
    InputTypeError
        A name that is neither a string nor a path.
    ConfigError
        Settings that are unknown, missing, of a wrong type, or that contradict each other.
    """
    changes = {} if changes is None else changes
    stray = [section for section, some in changes.items() if section not in _SECTIONS or not isinstance(some, dict)]
    if stray:
        raise ConfigError(
            f"changes: {stray}; expected a dictionary of settings for some of the sections {', '.join(_SECTIONS)}; "
            "write a recipe that extends this one to change anything else"
        )
    settings = _merge(_read(name), changes)
    try:
        return Recipe.from_dict(settings)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
