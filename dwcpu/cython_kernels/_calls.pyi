from collections.abc import Callable
from typing import Any

import numpy as np
from typing_extensions import disjoint_base

ABI: int

@disjoint_base
class Call:
    size: int
    def __init__(
        self,
        x_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        x_image: tuple[int, ...],
        out_image: tuple[int, ...],
        turned: bool,
        dtype: np.dtype,
        runner: Callable[..., object],
        threads: int,
        launch: tuple[int, ...] | None,
        drives: tuple[int, int],
        scratch_of: Callable[[int], tuple[int, np.ndarray]],
        most_scratch: int,
        packings: tuple = (),
        turns: tuple = (),
    ) -> None: ...
    def apply(self, x: object, residual: object, out: object) -> np.ndarray | None: ...

@disjoint_base
class Caller:
    known: tuple[Call, ...]
    def _remember(self, known: tuple[Call, ...], default_threads: Callable[[], int]) -> None: ...
    def __call__(
        self, x: object, *, out: object = None, residual: object = None, num_threads: object = None
    ) -> np.ndarray: ...

@disjoint_base
class Pool:
    free: dict[Any, list[Call]]
    def __init__(self, default_threads: Callable[[], int]) -> None: ...
    def key(self, options: tuple, x: object, num_threads: object, weights: tuple) -> tuple[tuple, bytes] | None: ...
    def again(
        self, options: tuple, x: object, residual: object, out: object, num_threads: object, *weights: object
    ) -> np.ndarray | None: ...
