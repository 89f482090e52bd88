"""Measurements on held-out stars, beside rivals trained on the same stars in the same run."""

from dataclasses import dataclass
from importlib import import_module
from inspect import signature

from ..exceptions import InputValueError

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Residuals",
    "benchmark_few_shot",
    "benchmark_flags",
    "benchmark_foundation",
    "benchmark_gaia_xp",
    "benchmark_lines",
    "benchmark_networks",
    "benchmark_settings",
    "benchmark_speed",
    "benchmark_synthesis",
    "benchmark_throughput",
    "mad_std",
    "result_header",
    "result_line",
    "run_benchmark",
    "stars_apart",
]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, which is imported when it is run.

    Attributes
    ----------
    module : str
        Its module in this package.
    function : str
        The function in there that yields the lines of the report.
    summary : str
        What it measures, in some words.
    """

    module: str
    function: str
    summary: str


#: The benchmarks by name.
BENCHMARKS = {
    "gaia-xp": Benchmark("gaia_xp", "benchmark_gaia_xp", "accuracy on held-out stars"),
    "speed": Benchmark("speed", "benchmark_speed", "time and memory"),
    "throughput": Benchmark("throughput", "benchmark_throughput", "of recipes, on a GPU if there is one"),
    "synthesis": Benchmark("synthesis", "benchmark_synthesis", "emulators on real stars"),
    "synthesis-settings": Benchmark(
        "synthesis_settings", "benchmark_settings", "spectra beside those of a much finer synthesis"
    ),
    "foundation": Benchmark("foundation", "benchmark_foundation", "weights that read every instrument"),
    "networks": Benchmark("networks", "benchmark_networks", "others trained on the same synthetic stars"),
    "few-shot": Benchmark("few_shot", "benchmark_few_shot", "what a hundred real stars add"),
    "lines": Benchmark("lines", "benchmark_lines", "whether weights look at the lines of an element"),
    "flags": Benchmark("flags", "benchmark_flags", "what flags catch and what they miss"),
}

# what is public here and comes from a module that is imported when it is asked for
_ELSEWHERE = {benchmark.function: f".{benchmark.module}" for benchmark in BENCHMARKS.values()}
_ELSEWHERE |= dict.fromkeys(("Residuals", "result_header", "result_line"), ".report")
_ELSEWHERE |= {"mad_std": ".._numerics", "stars_apart": ".stars"}


def __getattr__(name):
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE[name], __name__), name)


def run_benchmark(name, data_folder, model=None, rivals=True):
    """Run a benchmark by name.

    Parameters
    ----------
    name : str
        Name of the benchmark, of `BENCHMARKS`.
    data_folder : str or pathlib.Path
        Where its data are.
    model : str or pathlib.Path, optional
        Weights; the packaged ones when left out.
    rivals : bool, optional
        Train the rivals too.

    Returns
    -------
    iterator of str
        Lines of the report.

    Raises
    ------
    InputValueError
        There is no benchmark of this name; the message lists the known ones.

    Notes
    -----
    A benchmark of synthetic stars alone reads no data, and some have no rivals: such arguments
    are not passed on.
    """
    if name not in BENCHMARKS:
        raise InputValueError(f"name: no benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
    function = __getattr__(BENCHMARKS[name].function)
    given = {"data_folder": data_folder, "model": model, "rivals": rivals}
    return function(**{k: given[k] for k in given.keys() & signature(function).parameters})
