"""Sandboxes, containers and processes: their states, files, mounts and limits, and the command line."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wasm-sandboxer")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0"
