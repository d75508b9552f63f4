"""Calls that must be refused."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest


@contextmanager
def refused(code: grpc.StatusCode, *fragments: str) -> Iterator[None]:
    """The call in this block ends with `code`, and its message has every fragment."""
    with pytest.raises(grpc.RpcError) as refusal:
        yield
    message = refusal.value.details() or ""
    seen = refusal.value.code()
    assert seen is code, f"{seen.name}, not {code.name}: {message}"
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing, f"the message lacks {missing}: {message}"
