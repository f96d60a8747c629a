"""Choosing, gathering and drawing, against loops and Python's own integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning.selection import ascending, draw, gather, image_seeds, keep_highest, keep_tokens
from pruning.tokens import Tokens

WORD = 2**64
scores = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0, 3.25]), min_size=1, max_size=12)  # ties on purpose


@given(scores)
def test_ascending_breaks_ties_by_index(values: list[float]) -> None:
    expected = sorted(range(len(values)), key=lambda i: (values[i], i))
    assert ascending(torch.tensor([values]))[0].tolist() == expected


@given(scores, st.data())
def test_keep_highest_takes_the_earlier_of_equals_in_token_order(values: list[float], data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, len(values)))
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:kept]
    assert keep_highest(torch.tensor([values]), kept)[0].tolist() == sorted(best)


def test_gather_takes_rows_image_by_image() -> None:
    values = torch.arange(24).reshape(2, 4, 3)
    indices = torch.tensor([[0, 3], [1, 2]])
    expected = [[values[b, i].tolist() for i in row] for b, row in enumerate(indices.tolist())]
    assert gather(values, indices).tolist() == expected


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_keep_tokens_keeps_every_prefix_token_in_front(prefix: int) -> None:
    tokens = torch.arange(2 * (prefix + 4) * 3).reshape(2, prefix + 4, 3)
    indices = torch.tensor([[0, 2], [1, 3]])
    expected = [
        [tokens[b, p].tolist() for p in range(prefix)] + [tokens[b, prefix + i].tolist() for i in row]
        for b, row in enumerate(indices.tolist())
    ]
    left = keep_tokens(Tokens(tokens), indices, prefix)
    assert left.values.tolist() == expected
    assert left.index is not None
    assert left.index.equal(indices)
    assert left.sizes is None


def test_keep_tokens_follows_places_and_sizes() -> None:
    tokens = Tokens(torch.zeros(1, 4, 2), torch.tensor([[5, 7, 9]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    left = keep_tokens(tokens, torch.tensor([[0, 2]]), prefix=1)
    assert left.index is not None
    assert left.sizes is not None
    assert left.index.tolist() == [[5, 9]]
    assert left.sizes.tolist() == [[1.0, 2.0, 4.0]]


def splitmix(seed: int, place: int, salt: int) -> float:
    """draw's formula in integers without bound: splitmix64's finaliser (Steele et al., 2014), top 53 bits."""
    state = ((seed + salt * 0xBF58476D1CE4E5B9) * 0x94D049BB133111EB + place * 0x9E3779B97F4A7C15) % WORD
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % WORD
    state = (state ^ state >> 27) * 0x94D049BB133111EB % WORD
    return ((state ^ state >> 31) >> 11) / 2**53


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31 - 1), st.integers(0, 100))
def test_draw_equals_its_formula_in_exact_integers(image: int, seed: int, block: int) -> None:
    drawn = draw(torch.tensor([image]), 4, seed, block)[0].tolist()
    assert drawn == [splitmix(image, place, seed * 2**16 + block) for place in (1, 2, 3, 4)]


def test_draws_are_uniform() -> None:
    """39,200 draws in ten bins: 3,920 each, standard deviation 59; five of them are allowed."""
    drawn = draw(image_seeds(torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))), 196, 0, 2)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert torch.histc(drawn, 10, 0, 1).sub(3920).abs().max() < 5 * 59


def test_every_token_is_kept_equally_often() -> None:
    """Half of 16 tokens for 4,000 images: each 2,000 times, standard deviation 32; five of them are allowed."""
    seeds = image_seeds(torch.rand(4000, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    kept = keep_highest(draw(seeds, 16, 0, 0), 8)
    assert kept.flatten().bincount(minlength=16).sub(2000).abs().max() < 5 * 32


@pytest.mark.parametrize("other", [(0, 3), (1, 2), (1, 1), (7, 2)])
def test_seeds_and_blocks_draw_independently(other: tuple[int, int]) -> None:
    """Neighbours too: seed 1 at block 1 is not seed 0 at block 2. 50,000 pairs: correlation's deviation is 0.0045."""
    seeds = image_seeds(torch.rand(250, 1, 4, 4, generator=torch.Generator().manual_seed(1)))
    pair = torch.stack((draw(seeds, 200, 0, 2).flatten(), draw(seeds, 200, *other).flatten()))
    assert torch.corrcoef(pair)[0, 1].abs() < 5 * 0.0045


def test_an_image_has_one_seed_in_every_batch() -> None:
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = image_seeds(images)
    assert together.dtype == torch.int64
    assert len(set(together.tolist())) == 5
    assert together.tolist() == [image_seeds(image[None]).item() for image in images]
    assert image_seeds(images.flip(0)).tolist() == together.flip(0).tolist()


def test_a_seed_is_the_weighted_sum_of_its_pixels() -> None:
    image = torch.tensor([0.5, -0.25, 3.0]).reshape(1, 1, 1, 3)
    assert image_seeds(image).item() == (1 * 0.5 - 2 * 0.25 + 3 * 3.0) * 2**20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_seeds_are_exact_in_every_format(dtype: torch.dtype) -> None:
    images = (3 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))).to(dtype)
    places = range(1, 3 * 16 * 16 + 1)
    exact = [
        sum(int(pixel * 2**20) * place for pixel, place in zip(row, places, strict=True))
        for row in images.flatten(1).tolist()
    ]
    assert image_seeds(images).tolist() == exact


def test_moved_pixels_make_another_seed() -> None:
    image = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).reshape(1, 1, 2, 2)
    assert image_seeds(image).item() != image_seeds(image.flip(-1)).item()
