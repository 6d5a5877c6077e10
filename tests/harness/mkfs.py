"""mkfs.ext4: the machine's, or one that is fetched into ``.cache``."""

from __future__ import annotations

import shutil
import subprocess

from .daemon import ROOT

FETCHED = ROOT / ".cache" / "mkfs"


def mkfs_ext4() -> str:
    """The program's path. Raises ``CalledProcessError`` where there is none and fetching it fails."""
    found = shutil.which("mkfs.ext4")
    if found is None:
        subprocess.run([ROOT / "tests" / "fetch-mkfs.sh", FETCHED], check=True)
        found = str(FETCHED / "usr/sbin/mkfs.ext4")
    return found
