"""A progress bar where there is tqdm, and nothing where there is not."""

__all__ = ["progress"]


def progress(iterable, enabled, total=None, description=None):
    """Show how far a loop is.

    Parameters
    ----------
    iterable : iterable
        What the loop runs over.
    enabled : bool
        Whether to show anything.
    total : int, optional
        Number of elements, where ``len(iterable)`` does not tell.
    description : str, optional
        What is being done.

    Returns
    -------
    iterable
        A tqdm bar, which writes to stderr, or the iterable unchanged when not
        enabled or without tqdm.
    """
    if not enabled:
        return iterable
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return iterable
    return tqdm(iterable, total=total, desc=description)
