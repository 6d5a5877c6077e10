"""kubectl, as a person would use it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class KubectlFailed(AssertionError):
    """kubectl's own words."""


class Kubectl:
    """kubectl with one configuration, in one namespace."""

    def __init__(self, program: str, config: Path, namespace: str = "default") -> None:
        self._program = program
        self._config = config
        self.namespace = namespace

    def of(self, namespace: str) -> Kubectl:
        """The same in another namespace; "" is what objects themselves say."""
        return Kubectl(self._program, self._config, namespace)

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        namespace = [f"--namespace={self.namespace}"] if self.namespace else []
        return [self._program, f"--kubeconfig={self._config}", *namespace, *arguments]

    def run(self, *arguments: str, stdin: str = "", seconds: float = 120) -> str:
        """Run it and return its output. Raises ``KubectlFailed``."""
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, check=False, timeout=seconds
        )
        if done.returncode:
            raise KubectlFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def try_run(self, *arguments: str) -> str:
        """Run it and return its output, or nothing where it fails."""
        try:
            return self.run(*arguments)
        except KubectlFailed:
            return ""

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create or change objects."""
        self.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, *what: str) -> Any:
        """Objects as values."""
        return json.loads(self.run("get", *what, "-o", "json"))

    def wait(self, what: str, condition: str, seconds: int = 120) -> None:
        """Return when a condition holds, such as ``condition=Ready`` or ``jsonpath={.status.phase}=Succeeded``."""
        self.run("wait", f"--for={condition}", f"--timeout={seconds}s", what, seconds=seconds + 30)

    @contextmanager
    def forward(self, what: str, port: int) -> Iterator[int]:
        """A port of this machine that leads to one of ``pod/NAME`` or ``service/NAME``."""
        command = self.command("port-forward", what, f":{port}")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", line)
            if match is None:
                raise KubectlFailed(f"kubectl port-forward {what}: {line}{process.stdout.read()}")
            yield int(match[1])
        finally:
            process.terminate()
            process.communicate(timeout=30)
