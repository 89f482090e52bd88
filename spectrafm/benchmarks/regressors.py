"""Regression of labels on spectra: what is trained on the same stars as the weights, to compare with."""

import numpy as np

from ..exceptions import InputValueError, MissingDependencyError

__all__ = ["REGRESSORS", "predict_labels", "quadratic_cannon"]

#: Names of the regressors of `predict_labels`.
REGRESSORS = ("ridge", "support vectors", "gradient boosting", "perceptron")


def predict_labels(
    kind, x_train, truth, x_test, n_component, *, seed=0, shared=False, log=("teff",), standardize=True, **settings
):
    """Predict labels, one by one, by a regressor on principal components that scikit-learn fits.

    Parameters
    ----------
    kind : {"ridge", "support vectors", "gradient boosting", "perceptron"}
        Which regressor.
    x_train : numpy.ndarray
        ``(n_train, n_pixel)`` finite; what is predicted from.
    truth : dict of str to numpy.ndarray
        ``(n_train,)`` by label; stars whose label is not known, NaN, do not train its regressor.
    x_test : numpy.ndarray
        ``(n_test, n_pixel)`` finite, of the stars whose labels are predicted.
    n_component : int
        Number of principal components, which are whitened.
    seed : int, optional
        Seed of what is random.
    shared : bool, optional
        Find the components once, of all training stars, not of those with the label.
    log : sequence of str, optional
        Labels that are predicted by their logarithm.
    standardize : bool, optional
        Predict labels (or logarithms) with mean 0 and standard deviation 1.
    **settings
        Arguments of the class of scikit-learn beside the usual ones.

    Returns
    -------
    dict of str to numpy.ndarray
        ``(n_test,)`` by label.

    Raises
    ------
    InputValueError
        ``kind`` is not known.
    MissingDependencyError
        scikit-learn is not installed.
    """
    if kind not in REGRESSORS:
        raise InputValueError(f"kind: {kind!r}; expected one of {', '.join(REGRESSORS)}")
    try:
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
    except ImportError as error:
        raise MissingDependencyError("rivals need scikit-learn: pip install 'spectrafm[benchmark]'") from error

    components = PCA(n_component, whiten=True, random_state=seed)
    steps = [components]
    if shared:
        components.fit(x_train)
        x_train, x_test, steps = components.transform(x_train), components.transform(x_test), []
    predicted = {}
    for label, values in truth.items():
        y = np.log(values) if label in log else values
        known = np.isfinite(y)
        mean, std = (y[known].mean(), y[known].std()) if standardize else (0.0, 1.0)
        model = make_pipeline(*steps, *_regressor(kind, seed, settings)).fit(x_train[known], (y[known] - mean) / std)
        answer = model.predict(x_test) * std + mean
        predicted[label] = np.exp(answer) if label in log else answer
    return predicted


def _regressor(kind, seed, settings):
    """Return the last steps of a pipeline."""
    if kind == "ridge":
        from sklearn.linear_model import RidgeCV

        return [RidgeCV(**({"alphas": np.logspace(-4, 4, 17)} | settings))]
    if kind == "support vectors":
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR

        return [StandardScaler(), SVR(**({"C": 10.0, "gamma": 0.01, "epsilon": 0.02} | settings))]
    if kind == "gradient boosting":
        from sklearn.ensemble import HistGradientBoostingRegressor

        return [HistGradientBoostingRegressor(random_state=seed, **settings)]
    from sklearn.neural_network import MLPRegressor

    return [MLPRegressor(random_state=seed, **settings)]


def quadratic_cannon(x_train, truth, x_test):
    """Fit fluxes as quadratic functions of labels, then labels to fluxes (Ness et al. 2015, arXiv:1501.07604).

    Parameters
    ----------
    x_train : numpy.ndarray
        ``(n_train, n_pixel)`` fluxes over the continuum, finite.
    truth : dict of str to numpy.ndarray
        ``(n_train,)`` by label, all known.
    x_test : numpy.ndarray
        ``(n_test, n_pixel)`` fluxes over the continuum of the stars whose labels are predicted.

    Returns
    -------
    dict of str to numpy.ndarray
        ``(n_test,)`` by label.
    """
    from scipy.optimize import least_squares

    labels = np.stack([*truth.values()], axis=1)
    n_label = labels.shape[1]
    mean, std = labels.mean(axis=0), labels.std(axis=0)

    def design(x):
        pairs = [x[..., i] * x[..., j] for i in range(n_label) for j in range(i, n_label)]
        return np.stack([np.ones(x.shape[:-1]), *(x[..., i] for i in range(n_label)), *pairs], axis=-1)

    x = design((labels - mean) / std)
    # a ridge, as ten stars do not hold ten numbers; not on the mean, of which squares would make up the rest
    ridge = np.diag([0.0, *[0.1] * (x.shape[1] - 1)])
    coefficient = np.linalg.solve(x.T @ x + ridge, x.T @ x_train)
    scatter = np.sqrt(np.mean((x_train - x @ coefficient) ** 2, axis=0) + 0.005**2)
    weighted, found = coefficient / scatter, []
    for flux in x_test / scatter:
        fit = least_squares(lambda p, flux=flux: design(p) @ weighted - flux, np.zeros(n_label), bounds=(-8, 8))
        found.append(fit.x * std + mean)
    return {k: np.array(found)[:, i] for i, k in enumerate(truth)}
