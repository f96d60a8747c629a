"""Tokens are cut into pieces and joined again without loss."""

from __future__ import annotations

import pytest
import torch

from pruning.tokens import Tokens

VALUES = torch.arange(5 * 3 * 2.0).reshape(5, 3, 2)
INDEX, SIZES = torch.arange(10).reshape(5, 2), torch.arange(15.0).reshape(5, 3)


@pytest.mark.parametrize("tokens", [Tokens(VALUES), Tokens(VALUES, INDEX), Tokens(VALUES, INDEX, SIZES, False)])
@pytest.mark.parametrize("images", [1, 2, 5, 9])
def test_split_and_join_are_inverse(tokens: Tokens, images: int) -> None:
    pieces = tokens.split(images)
    assert [len(piece.values) for piece in pieces] == [min(images, 5 - i) for i in range(0, 5, images)]
    again = Tokens.join(pieces)
    for name in ("values", "index", "sizes"):
        before, after = getattr(tokens, name), getattr(again, name)
        assert (after is None) if before is None else after.equal(before)
    assert again.size_exponent == tokens.size_exponent


def test_places_count_from_the_first_patch() -> None:
    assert Tokens(VALUES).places(prefix=1).tolist() == [[0, 1]] * 5
    assert Tokens(VALUES, INDEX).places(prefix=1) is INDEX
