def progress(iterable, enabled, total=None, description=None):
    return iterable
