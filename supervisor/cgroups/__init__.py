"""Control groups, versions 1 and 2, behind one interface: ``detect`` a ``Hierarchy``, ``create`` a ``Cgroup``."""

from .detect import detect
from .group import Cgroup
from .hierarchy import Hierarchy
from .path import parse_path
from .resources import Resources

__all__ = ["Cgroup", "Hierarchy", "Resources", "detect", "parse_path"]
