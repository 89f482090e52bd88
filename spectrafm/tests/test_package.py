"""The package as a whole: what it exports, what it promises, how it is built."""

import ast
import configparser
import dataclasses
import enum
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import spectrafm

_PACKAGE = Path(spectrafm.__file__).parent
_ROOT = _PACKAGE.parent

in_checkout = pytest.mark.skipif(not (_ROOT / "setup.cfg").is_file(), reason="needs the files of a checkout")

# What numpydoc checks here, by its own codes. They stand in this file because
# numpydoc does not look into setup.cfg when there is a pyproject.toml.
_DOCSTRING_CHECKS = frozenset(
    {
        *("GL05", "GL06", "GL07", "GL08", "GL10"),  # there, no tabs, sections known and in order, directives
        *("SS01", "SS03", "SS04"),  # a summary that ends with a period
        *("PR01", "PR02", "PR03", "PR06", "PR07", "PR10"),  # all parameters, in order, described
        *("RT01", "YD01"),  # what comes back
    }
)


def _library_files():
    """Return all source files but the tests and their settings."""
    files = sorted(_PACKAGE.rglob("*.py"))
    return [p for p in files if "tests" not in p.relative_to(_PACKAGE).parts and p.name != "conftest.py"]


def _public_modules():
    """Return the names of all modules without a leading underscore."""
    names = []
    for path in _library_files():
        parts = path.relative_to(_ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return names


def _setup():
    config = configparser.ConfigParser()
    config.read(_ROOT / "setup.cfg")
    return config


def _canonical(name):
    """Return a distribution's name as the registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(text):
    return [Requirement(line) for line in text.splitlines() if line.strip()]


@in_checkout
def test_version_is_that_of_setup_cfg():
    """The version is told once for people and once for tools; they agree."""
    if spectrafm.__version__ == "0+unknown":
        pytest.skip("the package is not installed")
    assert spectrafm.__version__ == _setup()["metadata"]["version"]


def test_main_class_is_at_the_top():
    """`from spectrafm import SpectraFM` is the way in."""
    assert "SpectraFM" in spectrafm.__all__
    assert inspect.isclass(spectrafm.SpectraFM)


@pytest.mark.parametrize("name", _public_modules())
def test_all_names_what_is_there(name):
    """Each public module has an `__all__`, without repeats, and all of it exists."""
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for member in module.__all__:
        assert hasattr(module, member), f"{name}.{member}"


@pytest.mark.parametrize("path", _library_files(), ids=lambda path: path.relative_to(_PACKAGE).as_posix())
def test_all_has_what_is_public(path):
    """Each class and function whose name has no underscore stands in the `__all__` of its module."""
    names = [n.name for n in ast.parse(path.read_text()).body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    module = importlib.import_module(".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__"))
    missing = [name for name in names if not name.startswith("_") and name not in module.__all__]
    assert not missing, f"{path.name}: {missing}"


def test_import_is_light():
    """Importing the package brings in nothing heavy that torch and astropy do not."""
    heavy = ("IPython", "matplotlib", "pandas", "scipy.stats", "sklearn", "specutils", "tqdm")
    code = (
        "import json, sys, torch, safetensors.torch, astropy.units, astropy.table\n"
        "before = set(sys.modules)\n"
        "import spectrafm\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules and name not in before]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT)
    assert json.loads(done.stdout) == []


def test_import_configures_nothing_global():
    """Importing leaves the random state, the default dtype and the logging alone."""
    code = (
        "import logging, random, numpy, torch\n"
        "state = random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()\n"
        "settings = torch.get_default_dtype(), torch.get_num_threads(), logging.root.handlers[:]\n"
        "import spectrafm\n"
        "assert state == (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist())\n"
        "assert settings == (torch.get_default_dtype(), torch.get_num_threads(), logging.root.handlers)\n"
        "handlers = logging.getLogger('spectrafm').handlers\n"
        "assert all(type(handler) is logging.NullHandler for handler in handlers), handlers\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=_ROOT)
    assert done.returncode == 0, done.stderr


_ALONE = """
import importlib, pkgutil, sys, types

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("astropy", "matplotlib", "scipy", "specutils"):
            raise ModuleNotFoundError(f"{name} is imported")

sys.meta_path.insert(0, Nothing())
# the package itself needs astropy: what stands in for it has its modules, and nothing else
sys.modules["spectrafm"] = package = types.ModuleType("spectrafm")
package.__path__ = [sys.argv[1]]
import spectrafm.stellarperceptron as model
for module in pkgutil.iter_modules(model.__path__):
    importlib.import_module(f"{model.__name__}.{module.name}")

import numpy as np
flux, labels = np.ones((8, 64), dtype=np.float32), np.arange(16.0).reshape(8, 2)
table = model.TokenTable(flux, np.linspace(5000, 5100, 64), None, labels, None, ("teff", "logg"))
config = model.ModelConfig(
    embedding_dim=8, encoder_heads=(2,), encoder_dense=(8,), decoder_heads=(2,), decoder_dense=(8,), head_dense=(8,),
    patch_size=16, patch_components=4, patch_dense=8,
)
star = model.StellarPerceptron(config, model.Vocabulary(["flux", "teff", "logg"], flux=["flux"]))
star.fit(table, ["teff", "logg"], model.FitConfig(steps=1, batch_size=4, warmup_steps=0))
star.request(star.perceive(flux, ["flux"] * 64, table.wavelength), ["teff"])
"""


def test_model_is_free_of_astropy():
    """`stellarperceptron` is pure torch and NumPy: it can be imported, and a model trained, without anything else."""
    command = [sys.executable, "-c", _ALONE, str(_PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", _library_files(), ids=lambda path: path.relative_to(_PACKAGE).as_posix())
def test_modules_take_public_names(path):
    """What modules take from each other has no underscore, and stands in the `__all__` of where it comes from."""
    parts = path.relative_to(_ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        name = ".".join((*parts[: len(parts) - node.level], *filter(None, [node.module])))
        module = importlib.import_module(name)
        for alias in node.names:
            taken = getattr(module, alias.name, None)
            if inspect.ismodule(taken) or f"{name}.{alias.name}" in sys.modules or name == "spectrafm":
                continue
            where = f"{path.name}:{node.lineno} takes {alias.name} from {name}"
            assert not alias.name.startswith("_"), where
            assert alias.name in module.__all__, f"{where}, whose __all__ does not have it"


def _dotted(node):
    """Return ``a.b.c`` of a name or attribute, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _own_generator(tree):
    """Return the nodes inside ``with torch.random.fork_rng(...)``, where seeding disturbs nobody."""
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any("fork_rng" in ast.unparse(item.context_expr) for item in node.items):
            inside.update(ast.walk(node))
    return inside


@pytest.mark.parametrize("path", _library_files(), ids=lambda path: path.relative_to(_PACKAGE).as_posix())
def test_library_keeps_quiet(path):
    """Only the command line prints; nobody seeds globally, shows a figure or reads a pickle."""
    tree = ast.parse(path.read_text())
    forbidden = {"np.random.seed", "torch.manual_seed", "random.seed", "plt.show", "torch.set_default_dtype"}
    forked = _own_generator(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, where = _dotted(node.func), f"{path.name}:{node.lineno}"
        assert name not in forbidden or node in forked, f"{where} calls {name}"
        assert name != "print" or path.name in ("cli.py", "_cli_common.py", "_cli_infer.py"), f"{where} prints"
        if name == "torch.load":
            safe = [k.value for k in node.keywords if k.arg == "weights_only"]
            assert safe, f"{where}: torch.load without weights_only"
            assert getattr(safe[0], "value", None) is True, f"{where}: torch.load needs weights_only=True"


def _public_objects():
    """Return the full name of each public class and function and of their public methods."""
    found = {}
    for module_name in _public_modules():
        module = importlib.import_module(module_name)
        for name in module.__all__:
            member = getattr(module, name)
            if not (inspect.isclass(member) or inspect.isfunction(member)):
                continue
            full = f"{member.__module__}.{member.__qualname__}"
            found[full] = member
            if inspect.isclass(member):
                for attribute, value in vars(member).items():
                    if not attribute.startswith("_") and (
                        callable(value) or isinstance(value, (classmethod, staticmethod, property))
                    ):
                        found[f"{full}.{attribute}"] = value
    return found


def test_docstrings_follow_numpydoc():
    """Every public docstring passes numpydoc's checks."""
    validate = pytest.importorskip("numpydoc.validate", reason="needs the extra docs").validate
    complaints = []
    for name, member in sorted(_public_objects().items()):
        codes = set(_DOCSTRING_CHECKS)
        if inspect.isclass(member) and issubclass(member, enum.Enum):
            codes -= {"PR01"}  # the parameters are those of the functional interface of enum
        if dataclasses.is_dataclass(member):
            # numpydoc does not take fields under Attributes for the parameters they also are
            codes -= {"PR01", "PR02"}
            documented = inspect.getdoc(member) or ""
            complaints += [
                f"{name}: field {field.name} is not documented"
                for field in dataclasses.fields(member)
                if not field.name.startswith("_") and not re.search(rf"^.*\b{field.name}\b.* : ", documented, re.M)
            ]
        complaints += [f"{name}: {code} {text}" for code, text in validate(name)["errors"] if code in codes]
    assert not complaints, "\n" + "\n".join(complaints)


@in_checkout
def test_readme_commands():
    """The README has two commands, one to try the package and one to test it, and both use the pins."""
    readme = (_ROOT / "README.rst").read_text()
    commands = re.findall(r"^ *(python3 -m venv .*)$", readme, re.M)
    assert len(commands) == 2
    for command in commands:
        assert "pip install -c constraints.txt" in command
    assert commands[0].endswith("spectrafm infer --example -o labels.ecsv --plot labels.png --overwrite")
    assert commands[1].endswith("&& pytest -n auto")


@in_checkout
def test_pins_are_exact_and_within_the_ranges():
    """Each direct dependency has one exact pin, which setup.cfg allows."""
    config = _setup()
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in filter(None, (line.split("#")[0].strip() for line in lines)):
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), f"constraints.txt: {line!r} is no exact pin"
        name, version = line.split("==")
        name = _canonical(name)
        assert name not in pins, f"constraints.txt pins {name} twice"
        pins[name] = Version(version)
    wanted = _requirements(config["options"]["install_requires"])
    for text in config["options.extras_require"].values():
        wanted += _requirements(text)
    for requirement in wanted:
        if requirement.name == "spectrafm":
            continue
        name = _canonical(requirement.name)
        assert name in pins, f"constraints.txt has no {name}"
        assert pins[name] in requirement.specifier, str(requirement)


@in_checkout
def test_extras_exist_where_they_name_each_other():
    """An extra made of other extras names none that is missing."""
    extras = _setup()["options.extras_require"]
    for text in extras.values():
        for requirement in _requirements(text):
            if requirement.name == "spectrafm":
                assert requirement.extras <= set(extras)


@in_checkout
def test_changes_have_the_four_headings():
    """The newest version in CHANGES.rst is this one, under Astropy's headings."""
    text = (_ROOT / "CHANGES.rst").read_text()
    assert Version(text.split()[0]).release == Version(_setup()["metadata"]["version"]).release
    newest = re.split(r"^=+$", text, flags=re.M)[1]
    headings = re.findall(r"^(.+)\n-{3,}$", newest, re.M)
    assert headings == ["New Features", "API Changes", "Bug Fixes", "Other Changes and Additions"]


@in_checkout
def test_citation_names_the_version_and_both_papers():
    """CITATION.cff keeps up with the version and gives the papers their due."""
    text = (_ROOT / "CITATION.cff").read_text()
    assert f"version: {_setup()['metadata']['version']}\n" in text
    assert "2411.04750" in text
    assert "2308.10944" in text


@in_checkout
def test_documentation_pages_are_all_in_the_index():
    """No page is left out of the table of contents."""
    index = (_ROOT / "docs" / "index.rst").read_text()
    for page in (_ROOT / "docs").glob("*.rst"):
        if page.stem != "index":
            assert re.search(rf"^ +{page.stem}$", index, re.M), f"docs/{page.name} is not in docs/index.rst"
