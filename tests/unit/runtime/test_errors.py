"""The table of errors, and what callers are told of each."""

import errno
import logging

import pytest
from grpc import StatusCode

from initd import errors as refusals
from runtime.server import errors


def test_every_refusal_has_a_status_and_the_table_no_other() -> None:
    kinds = {
        kind
        for kind in vars(refusals).values()
        if isinstance(kind, type)
        and issubclass(kind, refusals.AuraedError)
        and kind is not refusals.AuraedError
    }
    assert errors.REFUSALS.keys() == kinds


@pytest.mark.parametrize("kind", errors.REFUSALS)
def test_a_refusal_travels_with_its_message(kind: type[refusals.AuraedError]) -> None:
    assert errors.status(kind("cell x: fact; remedy")) == (
        errors.REFUSALS[kind],
        "cell x: fact; remedy",
    )


def test_a_new_kind_of_a_known_refusal_keeps_its_status() -> None:
    class NoSuchCell(refusals.NotFound):
        pass

    assert errors.status(NoSuchCell("x"))[0] is StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, StatusCode.RESOURCE_EXHAUSTED),
        (errno.ENOMEM, StatusCode.RESOURCE_EXHAUSTED),
        (errno.EMFILE, StatusCode.RESOURCE_EXHAUSTED),
        (errno.EACCES, StatusCode.PERMISSION_DENIED),
        (errno.EBUSY, StatusCode.UNAVAILABLE),
    ],
)
def test_a_failure_is_told_by_its_errno_and_file(number: int, code: StatusCode) -> None:
    error = OSError(number, "Fact", "/a/file")
    assert errors.status(error) == (code, "/a/file: Fact")


def test_what_nobody_foresaw_is_logged_once_under_a_reference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        code, message = errors.status(ZeroDivisionError("secret"))
        _, second = errors.status(OSError(errno.EXDEV, "x"))
    assert code is StatusCode.INTERNAL
    assert "secret" not in message
    first, _ = caplog.records
    reference = message.rpartition(" ")[2]
    assert reference in first.getMessage()
    assert reference not in second
    assert first.exc_info is not None
