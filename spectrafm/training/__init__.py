"""Recipes: named, checked configurations that turn stars into weights."""

from .ahead import AheadStream
from .calibrate_weights import calibrate
from .data import read_data, split_stars, token_table
from .observation import ObservationConfig
from .observed import ObservedSource, RequestConfig
from .recipes import DomainConfig, Recipe, SourceConfig, load_recipe, recipe_names
from .sources import EmulatorSource, LibrarySource, MixedEmulatorSource, MovedLibrarySource
from .stream import StarStream, StreamPart
from .table import TableSource
from .train import build_stream, make_vocabulary, standardize, train_recipe
from .train_readout import ReadoutConfig, with_readout
from .train_second_opinion import OpinionConfig, with_opinion

__all__ = [
    "AheadStream",
    "DomainConfig",
    "EmulatorSource",
    "LibrarySource",
    "MixedEmulatorSource",
    "MovedLibrarySource",
    "ObservationConfig",
    "ObservedSource",
    "OpinionConfig",
    "ReadoutConfig",
    "Recipe",
    "RequestConfig",
    "SourceConfig",
    "StarStream",
    "StreamPart",
    "TableSource",
    "build_stream",
    "calibrate",
    "load_recipe",
    "make_vocabulary",
    "read_data",
    "recipe_names",
    "split_stars",
    "standardize",
    "token_table",
    "train_recipe",
    "with_opinion",
    "with_readout",
]
