"""Sandboxes, containers and processes: their states, files, mounts and limits, and the command line."""


def __getattr__(name: str) -> str:
    """Look ``__version__`` up when it is needed: that takes longer than most commands."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wasm-sandboxer")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"
