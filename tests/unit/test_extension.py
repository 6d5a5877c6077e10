"""iSulad's list of containers, where it is no list."""

from __future__ import annotations

import pytest

from sandbox_api.dialects import extension
from sandbox_api.errors import InvalidArgument


@pytest.mark.parametrize(
    "value",
    [
        b'{"tasks": [{"task_id": "\\ud800"}]}',
        '{"tasks": [{"task_id": "\ud800"}]}'.encode(errors="surrogatepass"),
        b'{"tasks": [{"task_id": "a", "spec": "\\udcff"}]}',
        '{"tasks": []}'.encode("utf-16"),
        b"[" * 100_000,
        b"",
    ],
)
def test_text_that_is_no_utf_8_is_refused(value: bytes) -> None:
    """It could be neither recorded nor sent: the update failed with an error of ours in the middle of it."""
    with pytest.raises(InvalidArgument, match=r"extensions\.tasks is not JSON"):
        extension.parse(value)
