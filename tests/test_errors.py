"""Mistakes: what is said about them, and that nothing has happened by then."""

from __future__ import annotations

import re

import numpy as np
import pytest
from layer_mistakes import LAYER_MISTAKES
from mistakes import DW, F32, X, ones
from mistakes import MISTAKES as FUNCTION_MISTAKES

from dwcpu import ops

MISTAKES = FUNCTION_MISTAKES | LAYER_MISTAKES


@pytest.mark.parametrize("name", MISTAKES)
def test_text(name) -> None:
    call, error, text = MISTAKES[name]
    with pytest.raises(error, match=re.escape(text)):
        call()


@pytest.mark.parametrize("name", MISTAKES)
def test_text_has_three_parts(name) -> None:
    """What was got; the rule; the fix: one line, which starts with the operation."""
    with pytest.raises((TypeError, ValueError)) as caught:
        MISTAKES[name][0]()
    text = str(caught.value)
    assert re.match(r"\w+: ", text)
    assert text.count("; ") >= 1
    assert "\n" not in text


@pytest.mark.parametrize(
    "mistake",
    [
        {"bias": ones(8)},
        {"residual": ones(1, 8, 8, 8)},
        {"activation": "x"},
        {"backend": "x"},
        {"num_threads": 0},
        {"layout": "x"},
        {"stride": 0},
    ],
    ids=str,
)
def test_nothing_is_written_before_all_is_checked(mistake) -> None:
    out = np.full((1, 8, 8, 16), np.nan, F32)
    with pytest.raises(ValueError):
        ops.depthwise_conv2d(X, DW, padding=1, out=out, **mistake)
    assert np.isnan(out).all()


def test_no_advice_on_layout_for_what_comes_from_another_step() -> None:
    with pytest.raises(ValueError, match="pw has 8 input channels but the output of dw has 16") as caught:
        ops.separable_conv2d(X, DW, ones(8, 24), padding=1)
    assert "layout" not in str(caught.value)
