"""Recipes: named, checked configurations that turn a data set into weights."""

from .recipes import Recipe, load_recipe, recipe_names
from .train import calibrate, train_recipe

__all__ = ["Recipe", "calibrate", "load_recipe", "recipe_names", "train_recipe"]
