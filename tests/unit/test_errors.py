"""One tree, one mapping."""

from __future__ import annotations

import grpc
import pytest

from syncline import errors


@pytest.mark.parametrize("error", errors.all_errors())
def test_every_error_has_a_status_in_both_worlds(error: type[errors.SynclineError]) -> None:
    assert hasattr(grpc.StatusCode, error.grpc_status)
    assert 400 <= error.http_status < 600


def test_codes_are_unique() -> None:
    codes = [error.code for error in errors.all_errors()]
    assert len(codes) == len(set(codes))


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for error in errors.all_errors():
        assert error.__name__ in drawn
