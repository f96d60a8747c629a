"""Names that may have been meant."""

from __future__ import annotations

import pytest

from pruning.backbone_names import hint, near_names


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("deit-small", "deit_small_patch16_224"),  # as people write it
        ("DeiT_small", "deit_small_patch16_224"),
        ("DeiT-S.fb_in1k", "deit_small_patch16_224"),  # the tag says nothing of the name
        ("deit3s", "deit3_small_patch16_224"),  # spelt like a beginning
        ("deit_smal_patch16_224", "deit_small_patch16_224"),
        ("demoo", "demo"),
        ("swinn", "swinv2_cr_base_224"),
    ],
)
def test_the_nearest_name_comes_first(wanted: str, first: str) -> None:
    found = near_names(wanted)
    assert found[0] == first
    assert len(set(found)) == len(found) <= 3


@pytest.mark.parametrize("wanted", ["", "%", "nosuch", "?"])
def test_where_none_is_near_it_says_where_all_are(wanted: str) -> None:
    assert near_names(wanted) == []
    assert hint(wanted) == "none is spelt like it; `ztp backbones` lists them"
