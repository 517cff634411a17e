"""Checks of a single shape, and what error texts advise where two shapes do not fit each other, or a name is unknown.

Weights that do not fit mostly come from PyTorch, whose order of axes is another one. Advice names the expression that
turns them: reshaping them would mix up their values.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "elsewhere",
    "fewer_or_more",
    "filters",
    "image",
    "matrix",
    "nearest",
    "nonempty_weights",
    "signal",
    "turned",
    "turned_windows",
    "windows",
]

#: What other libraries call some of what there is.
_ELSEWHERE = {
    "swish": "'silu'",
    "linear": "None",
    "identity": "None",
    "none": "None",
    "channels_last": "'NHWC'",
    "channels_first": "'NCHW'",
}


def nearest(value: str, names: Iterable[str]) -> str:
    """The fix where a name is none of those that there are: one that is written like it, if there is one."""
    from difflib import get_close_matches  # most programs never need it

    if value.lower() in _ELSEWHERE:
        return f"use {_ELSEWHERE[value.lower()]}"
    plain = {name.lower().replace("_", ""): name for name in names}
    found = get_close_matches(value.lower().replace("_", "").replace("-", ""), plain, 1, 0.75)
    found = [plain[name] for name in found] or [name for name in plain.values() if f"_{value}_" in name]
    return f"use {found[0]!r}" if found else "use one of these"


def image(x_shape: tuple[int, ...], operation: str, x: str) -> tuple[int, int, int, int]:
    """The shape of an image ``(N, H, W, C)``, checked."""
    if len(x_shape) != 4:
        raise ValueError(
            f"{operation}: {x} has shape {tuple(x_shape)}; it must be (N, H, W, C) or (H, W, C); reshape {x}"
        )
    batch, height, width, channels = x_shape
    if height < 1 or width < 1 or channels < 1:
        raise ValueError(
            f"{operation}: {x} has height {height}, width {width} and {channels} channels; "
            f"each must be at least 1 (only the batch may be empty); enlarge {x}"
        )
    return batch, height, width, channels


def nonempty_weights(w_shape: tuple[int, ...], operation: str, w: str) -> None:
    """Refuse weights without elements."""
    if min(w_shape) < 1:
        raise ValueError(
            f"{operation}: {w} has shape {tuple(w_shape)}; every axis must be at least 1; give more weights"
        )


def windows(w_shape: tuple[int, ...], x_shape: tuple[int, ...], names: tuple[str, str]) -> str:
    """What probably happened where the channels of depthwise weights are not the image's."""
    w, channels = names[1], x_shape[-1]
    if len(w_shape) == 4 and w_shape[1] == 1 and w_shape[0] == channels:
        return f"; if these are PyTorch's weights, (C, 1, KH, KW), pass {w}[:, 0].transpose(1, 2, 0)"
    if len(w_shape) == 4 and w_shape[1] == 1 and w_shape[0] % channels == 0:
        return (
            f"; if these are PyTorch's weights, (C * M, 1, KH, KW), pass "
            f"{w}.reshape({channels}, -1, *{w}.shape[2:]).transpose(2, 3, 0, 1)"
        )
    if len(w_shape) == 3 and channels == 1:
        return f"; if these are {w_shape[2]} windows for one channel, pass {w}[:, :, None]"
    if w_shape[2] == 1:
        which = "these are the windows" if len(w_shape) == 4 else "it is the window"
        grey = ""
        if len(x_shape) == 3 or x_shape[0] == 1:
            grey = f", or if {names[0]} is a batch of images of one channel, {names[0]}[..., None]"
        return f"; if {which} of every channel, pass np.repeat({w}, {channels}, axis=2)" + grey
    if len(w_shape) == 3 and w_shape[0] == channels:
        turned = f"; if these are (C, KH, KW), pass {w}.transpose(1, 2, 0)"
        square = w_shape[0] == w_shape[1]  # so it looks like (KH, KW, C), too
        return turned + (f", else{fewer_or_more(w_shape[2], x_shape, names)[1:]}" if square else "")
    if len(w_shape) == 4 and w_shape[3] == channels:
        return f"; if these are (KH, KW, M, C), pass {w}.transpose(0, 1, 3, 2)"
    return fewer_or_more(w_shape[2], x_shape, names)


def turned_windows(
    dw_shape: tuple[int, ...], pw_shape: tuple[int, ...], given: int, operation: str, names: tuple[str, str]
) -> None:
    """Refuse PyTorch's depthwise weights that fit as others and give `given` channels, not those that follow.

    What is said of those that follow would be wrong.
    """
    dw, pw = names
    if len(dw_shape) == 4 and dw_shape[:2] == (pw_shape[0], 1) and given != pw_shape[0]:
        raise ValueError(
            f"{operation}: {dw} has shape {dw_shape} and gives {given} channels but {pw} takes {pw_shape[0]}; "
            f"{dw} must be (KH, KW, C) or (KH, KW, C, M)" + windows(dw_shape, pw_shape[:1], ("", dw))
        )


def signal(w_shape: tuple[int, ...], x_shape: tuple[int, ...], names: tuple[str, str]) -> str:
    """The same for the weights of signals."""
    w, channels = names[1], x_shape[-1]
    if len(w_shape) == 3 and w_shape[1] == 1 and w_shape[0] == channels:
        return f"; if these are PyTorch's weights, (C, 1, K), pass {w}[:, 0].T"
    if len(w_shape) == 3 and w_shape[1] == 1 and w_shape[0] % channels == 0:
        turned = f"{w}.reshape({channels}, -1, {w_shape[2]}).transpose(2, 0, 1)"
        return f"; if these are PyTorch's weights, (C * M, 1, K), pass {turned}"
    if len(w_shape) == 2 and channels == 1:
        return f"; if these are {w_shape[1]} windows for one channel, pass {w}[:, None]"
    if len(w_shape) == 2 and w_shape[0] == channels:
        return f"; if these are (C, K), pass {w}.T"
    if len(w_shape) == 3 and w_shape[1] == 1:
        return f"; if these are the windows of every channel, pass np.repeat({w}, {channels}, axis=1)"
    return fewer_or_more(w_shape[1], x_shape, names)


def fewer_or_more(channels: int, x_shape: tuple[int, ...], names: tuple[str, str]) -> str:
    """What to do where weights for so many channels meet an image of others, in all likelihood."""
    x, w = names
    if x.startswith("the output"):
        return f"; give {w} for {x_shape[-1]} channels"
    return elsewhere(channels, x_shape, x) or f"; give {x} with {channels} channels, or {w} for {x_shape[-1]}"


def regrouped(w_shape: tuple[int, ...], parts: int, x_shape: tuple[int, ...], names: tuple[str, str]) -> str:
    """What to do where weights (KH, KW, Cin / groups, Cout) in so many groups meet an image of other channels."""
    x, w = names
    per_group, out_channels = w_shape[2:]
    groups, rest = divmod(x_shape[-1], per_group)
    fixes = [] if x.startswith("the output") or out_channels % parts else [f"{x} with {per_group * parts} channels"]
    if groups and not rest and out_channels % groups == 0:
        fixes.append(f"groups={groups}")
    if x_shape[-1] and x_shape[-1] % parts == 0:
        fixes.append(f"{w} with {x_shape[-1] // parts} input channels")
    some = ", ".join(fixes[:-1]) + (" or " if fixes[1:] else "") + "".join(fixes[-1:]) or "other weights"
    return elsewhere(per_group * parts, x_shape, x) or f"; give {some}"


def elsewhere(channels: int, x_shape: tuple[int, ...], x: str) -> str:
    """Whether an image with so many channels has them on another axis; not what comes out of an operation before."""
    if channels not in x_shape[1:-1] or x.startswith("the output"):
        return ""
    return (
        f"; if {x} has its channels on another axis, say so with layout='NCHW' or 'NHWC' (layers, when they are made)"
    )


def matrix(w_shape: tuple[int, ...], w: str) -> str:
    """How to get a matrix of pointwise weights from what is none."""
    if len(w_shape) == 4 and w_shape[2:] == (1, 1):
        return f"if these are PyTorch's weights, (Cout, Cin, 1, 1), pass {w}[:, :, 0, 0].T"
    if len(w_shape) == 4 and w_shape[:2] == (1, 1):
        return f"if these are weights (1, 1, Cin, Cout), pass {w}[0, 0]"
    return f"give {w} two axes"


def turned(w_shape: tuple[int, ...], x_shape: tuple[int, ...], names: tuple[str, str]) -> str:
    """What probably happened where the first axis of pointwise weights is not the image's channels."""
    w = names[1]
    if w_shape[1] == x_shape[-1]:
        return f"; if these are weights (Cout, Cin), as PyTorch's are, pass {w}.T"
    return fewer_or_more(w_shape[0], x_shape, names)


def filters(w: str) -> str:
    """What probably happened where weights of a convolution fit once their axes are turned."""
    return f"; if these are PyTorch's weights, (Cout, Cin / groups, KH, KW), pass {w}.transpose(2, 3, 1, 0)"
