"""Names that no other run of the tests has."""

from __future__ import annotations

import os
import secrets

RUN = f"{os.getpid()}-{secrets.token_hex(3)}"
"""This run. Control groups are the whole machine's, and two runs in pid namespaces may have the same pid."""
