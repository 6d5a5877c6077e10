"""A Debian system in a folder: made once by debootstrap from the machine's own mirror, then used through overlays."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".cache" / "roots"
ENTER = Path(__file__).with_name("enter.sh")
PACKAGES = ("ca-certificates", "make", "python3", "python3-venv")
BOOT_SECONDS = 300
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What belongs to a run of make in /src, and to pip.
OURS = ("src", "root/.cache", "etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt")


class System:
    """A system that starts out as debootstrap leaves it, and keeps what is done to it until ``remove``."""

    def __init__(self, base: Path, name: str) -> None:
        """``base`` is a root file system, which stays as it is."""
        self._base = base
        self._upper = FOLDER / name
        self._clear()
        self._upper.mkdir(parents=True)

    def take_tree(self) -> None:
        """Have the checkout's files, those not committed as well, in ``/src``."""
        listing = subprocess.run(
            ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in filter(None, listing.split("\0")):
            if (ROOT / name).exists():
                target = self._upper / "src" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target, follow_symlinks=False)

    def take(self, *files: Path) -> None:
        """Have these files in ``/``."""
        for file in files:
            shutil.copy(file, self._upper)

    def run(self, *command: str, folder: str = "/src") -> None:
        """Run a command in it. Raises ``CalledProcessError``."""
        subprocess.run(self._inside(command, folder), check=True, env=environment())

    def output(self, *command: str) -> str:
        """Run a command in it and return its output. Raises ``CalledProcessError``."""
        done = subprocess.run(
            self._inside(command, "/"), check=True, env=environment(), stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    def boot(self, script: str) -> str:
        """Run a script as a service of a systemd in it, and return its output. Raises ``CalledProcessError``."""
        (self._upper / "script").write_text(script)
        command = [ENTER.with_name("boot.sh"), self._base, self._upper, "/script"]
        subprocess.run(command, timeout=BOOT_SECONDS, check=False)  # systemd's own status says nothing
        return (self._upper / "script.log").read_text()

    def of_the_host(self) -> str:
        """Describe what has to stay as it is: packages, /etc with apt's sources and pins, and the system's name."""
        return self.output("sh", "-c", "dpkg -l; find -L /etc -type f -exec sha256sum {} + | sort -k 2")

    def left(self) -> list[str]:
        """Files beside ours that were made or changed, but for those of a run."""
        found = []
        for folder, folders, names in os.walk(self._upper):
            inner = os.path.relpath(folder, self._upper)
            folders[:] = [each for each in folders if os.path.normpath(f"{inner}/{each}") not in OURS]
            found += [os.path.normpath(f"{inner}/{name}") for name in names]
        return sorted(set(found) - set(OURS))

    def remove(self) -> None:
        """Forget all that was done to it."""
        self._clear()

    def _inside(self, command: Sequence[str], folder: str) -> list[str]:
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', folder, *command]
        return [str(ENTER), str(self._base), str(self._upper), *inside]

    def _clear(self) -> None:
        for path in (self._upper, *(Path(f"{self._upper}.{part}") for part in ("work", "root"))):
            if path.exists():
                shutil.rmtree(path)


def environment() -> dict[str, str]:
    """A login's, with the machine's way to the network."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    kept.pop("PIP_FIND_LINKS", None)
    return {**kept, "PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}


def debian(suite: str) -> Path:
    """The root file system of a suite, made when first asked for. Raises ``CalledProcessError``."""
    base = FOLDER / f"{suite}.base"
    if not base.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = base.with_suffix(".part")
        if part.exists():
            shutil.rmtree(part)
        subprocess.run([Path(__file__).with_name("debootstrap.sh"), suite, part, ",".join(PACKAGES)], check=True)
        part.rename(base)
    return base
