"""Calls that are mistakes, and what is said about them."""

from __future__ import annotations

import numpy as np

from dwcpu import layers, ops

F32 = np.float32


def ones(*shape: int, dtype: type = F32) -> np.ndarray:
    return np.ones(shape, dtype)


X = ones(1, 8, 8, 16)
DW, PW, CONV = ones(3, 3, 16), ones(16, 24), ones(3, 3, 16, 24)
MASKED = np.ma.masked_array(np.ones((3, 3, 16), F32), mask=False)

ELSEWHERE = "if x has its channels on another axis, say so with layout='NCHW' or 'NHWC' (layers, when they are made)"

#: Call, error, and a part of its text.
MISTAKES = {
    # shapes
    "channels": (
        lambda: ops.depthwise_conv2d(X, ones(3, 3, 32)),
        ValueError,
        "depthwise_conv2d: w has 32 channels but x has 16; the third axis of w must equal the channels of x",
    ),
    "channels first": (
        lambda: ops.depthwise_conv2d(X, DW, layout="NCHW"),
        ValueError,
        "depthwise_conv2d: w has 16 channels but x has 8; the third axis of w must equal the channels of x",
    ),
    "channels on another axis": (
        lambda: ops.depthwise_conv2d(ones(1, 16, 8, 8), DW),
        ValueError,
        f"w has 16 channels but x has 8; the third axis of w must equal the channels of x; {ELSEWHERE}",
    ),
    "channels on another axis, pointwise": (
        lambda: ops.pointwise_conv2d(ones(16, 8, 8), PW),
        ValueError,
        f"w has 16 input channels but x has 8; the first axis of w must equal the channels of x; {ELSEWHERE}",
    ),
    "channels on another axis, conv2d": (
        lambda: ops.conv2d(ones(1, 8, 8, 16), CONV, layout="NCHW"),
        ValueError,
        f"the third axis of w must equal the channels of x divided by groups, 8; {ELSEWHERE}",
    ),
    "channels on another axis, signal": (
        lambda: ops.depthwise_conv1d(ones(2, 16, 40), ones(3, 16)),
        ValueError,
        f"w has 16 channels but x has 40; the second axis of w must equal the channels of x; {ELSEWHERE}",
    ),
    "channels on another axis, inverted residual": (
        lambda: ops.inverted_residual(ones(1, 16, 8, 8), ones(16, 32), ones(3, 3, 32), ones(32, 16)),
        ValueError,
        f"the first axis of expand must equal the channels of x; {ELSEWHERE}",
    ),
    "x dimensions": (
        lambda: ops.depthwise_conv2d(ones(16), DW),
        ValueError,
        "depthwise_conv2d: x has shape (16,); it must be (N, H, W, C) or (H, W, C); reshape x",
    ),
    "windows for one channel": (
        lambda: ops.depthwise_conv2d(ones(8, 8, 1), ones(3, 3, 4)),
        ValueError,
        "the third axis of w must equal the channels of x; if these are 4 windows for one channel, pass w[:, :, None]",
    ),
    "windows for one channel, signal": (
        lambda: ops.depthwise_conv1d(ones(40, 1), ones(3, 4)),
        ValueError,
        "must equal the channels of x; if these are 4 windows for one channel, pass w[:, None]",
    ),
    "windows of every channel": (
        lambda: ops.depthwise_conv2d(X, ones(3, 3, 1, 4)),
        ValueError,
        "must equal the channels of x; if these are the windows of every channel, pass np.repeat(w, 16, axis=2)",
    ),
    "windows of every channel, signal": (
        lambda: ops.depthwise_conv1d(ones(40, 6), ones(3, 1, 4)),
        ValueError,
        "must equal the channels of x; if these are the windows of every channel, pass np.repeat(w, 6, axis=1)",
    ),
    "several windows before channels": (
        lambda: ops.depthwise_conv2d(ones(8, 8, 3), ones(5, 5, 4, 3)),
        ValueError,
        "must equal the channels of x; if these are (KH, KW, M, C), pass w.transpose(0, 1, 3, 2)",
    ),
    "how many zeros": (
        lambda: ops.depthwise_conv2d(X, DW, padding="zeros"),
        ValueError,
        "'same' or 'valid'; say how many zeros, or 'same'",
    ),
    "x without channels": (
        lambda: ops.depthwise_conv2d(ones(8, 16), DW),
        ValueError,
        "(N, H, W, C) or (H, W, C); give x[..., None] if it has a single channel, x[None] if it has a single row",
    ),
    "x without channels, channels first": (
        lambda: ops.conv2d(ones(8, 16), CONV, layout="NCHW"),
        ValueError,
        "(N, C, H, W) or (C, H, W); give x[None] if it has a single channel, x[:, None] if it has a single row",
    ),
    "x dimensions, channels first": (
        lambda: ops.conv2d(ones(1, 1, 16, 8, 8), CONV, layout="NCHW"),
        ValueError,
        "conv2d: x has shape (1, 1, 16, 8, 8); it must be (N, C, H, W) or (C, H, W); reshape x",
    ),
    "w dimensions": (
        lambda: ops.depthwise_conv2d(X, ones(3, 16)),
        ValueError,
        "w[..., None], 16, axis=2), or if it is (K, C), pass w[None] for windows along rows, w[:, None] down columns",
    ),
    "one window of a layer": (
        lambda: layers.DepthwiseConv2d(ones(5, 5)),
        ValueError,
        "one window for all channels, w[..., None], or for C channels np.repeat(w[..., None], C, axis=2), or if it ",
    ),
    "a batch of grey images": (
        lambda: ops.depthwise_conv2d(ones(4, 20, 30), ones(3, 3, 1)),
        ValueError,
        "pass np.repeat(w, 30, axis=2), or if x is a batch of images of one channel, x[..., None]",
    ),
    "w without channels": (
        lambda: ops.depthwise_conv2d(X, ones(3, 5)),
        ValueError,
        "depthwise_conv2d: w has shape (3, 5); it must be (KH, KW, C) or (KH, KW, C, M); repeat one window for all ",
    ),
    "window of every channel": (
        lambda: ops.depthwise_conv2d(ones(8, 8, 3), ones(3, 3, 1)),
        ValueError,
        "must equal the channels of x; if it is the window of every channel, pass np.repeat(w, 3, axis=2)",
    ),
    "channels first, or other channels": (
        lambda: ops.depthwise_conv2d(ones(8, 9, 3), ones(3, 3, 5)),
        ValueError,
        "if these are (C, KH, KW), pass w.transpose(1, 2, 0), else give x with 5 channels, or w for 3",
    ),
    "no channels": (
        lambda: ops.depthwise_conv2d(ones(1, 8, 8, 0), ones(3, 3, 0)),
        ValueError,
        "depthwise_conv2d: x has height 8, width 8 and 0 channels; each must be at least 1",
    ),
    "no height": (lambda: ops.conv2d(ones(1, 0, 8, 16), CONV, padding=4), ValueError, "x has height 0"),
    "no multiplier": (
        lambda: ops.depthwise_conv2d(X, ones(3, 3, 16, 0)),
        ValueError,
        "w has shape (3, 3, 16, 0); every axis must be at least 1",
    ),
    "pointwise w": (
        lambda: ops.pointwise_conv2d(X, ones(24, 16)),
        ValueError,
        "pointwise_conv2d: w has 24 input channels but x has 16; the first axis of w must equal the channels of x",
    ),
    "pointwise w dimensions": (
        lambda: ops.pointwise_conv2d(X, ones(1, 1, 16, 24)),
        ValueError,
        "w has shape (1, 1, 16, 24); it must be (Cin, Cout); if these are weights (1, 1, Cin, Cout), pass w[0, 0]",
    ),
    "pointwise w with one axis": (
        lambda: ops.pointwise_conv2d(X, ones(16)),
        ValueError,
        "pointwise_conv2d: w has shape (16,); it must be (Cin, Cout); give w two axes",
    ),
    "conv w": (
        lambda: ops.conv2d(X, CONV, groups=2),
        ValueError,
        (
            "conv2d: w has 16 input channels but x has 16 and groups is 2; the third axis of w must equal the channels "
            "of x divided by groups, 8; give x with 32 channels, groups=1 or w with 8 input channels"
        ),
    ),
    "conv w dimensions": (lambda: ops.conv2d(X, DW), ValueError, "it must be (KH, KW, Cin / groups, Cout); reshape w"),
    "groups": (
        lambda: ops.conv2d(X, CONV, groups=3),
        ValueError,
        (
            "conv2d: groups is 3 but x has 16 channels and w has 24 output channels; groups must divide both; give x "
            "with 48 channels or groups=1"
        ),
    ),
    "groups forgotten": (
        lambda: ops.conv2d(X, ones(3, 3, 4, 32)),
        ValueError,
        "divided by groups, 16; give x with 4 channels, groups=4 or w with 16 input channels",
    ),
    "groups, but other channels": (
        lambda: ops.conv2d(ones(1, 8, 8, 3), ones(3, 3, 1, 32), groups=32),
        ValueError,
        "but x has 3 channels and w has 32 output channels; groups must divide both; give x with 32 channels",
    ),
    "groups, nothing fits": (
        lambda: ops.conv2d(X, ones(3, 3, 3, 9), groups=5),
        ValueError,
        "groups must divide both; give other weights",
    ),
    "stride in place of bias": (
        lambda: ops.conv2d(X, CONV, 2),
        TypeError,
        "conv2d: bias is 2; it must be an array of float32 or float64; give one, and options by their names",
    ),
    "strides in place of bias": (lambda: ops.depthwise_conv2d(X, DW, (2, 2)), TypeError, "bias is (2, 2); it must be"),
    "padding in place of bias": (lambda: ops.depthwise_conv2d(X, DW, "same"), TypeError, "bias is 'same'; it must be"),
    "groups 0": (lambda: ops.conv2d(X, CONV, groups=0), ValueError, "conv2d: groups is 0; it must be at least 1"),
    "separable dw": (
        lambda: ops.separable_conv2d(X, ones(3, 3, 8), PW),
        ValueError,
        "separable_conv2d: dw has 8 channels but x has 16; the third axis of dw must equal the channels of x",
    ),
    "separable pw": (
        lambda: ops.separable_conv2d(X, ones(3, 3, 16, 2), PW),
        ValueError,
        "separable_conv2d: pw has 16 input channels but the output of dw has 32; the first axis of pw must equal",
    ),
    "separable pw_bias": (
        lambda: ops.separable_conv2d(X, DW, PW, ones(16), ones(16)),
        ValueError,
        "separable_conv2d: pw_bias has shape (16,); it must have one entry for each of the 24 output channels of pw",
    ),
    "inverted expand": (
        lambda: ops.inverted_residual(X, ones(8, 32), ones(3, 3, 32), ones(32, 16)),
        ValueError,
        "inverted_residual: expand has 8 input channels but x has 16",
    ),
    "inverted dw": (
        lambda: ops.inverted_residual(X, ones(16, 32), ones(3, 3, 16), ones(16, 16)),
        ValueError,
        "inverted_residual: dw has 16 channels but the output of expand has 32",
    ),
    "inverted project": (
        lambda: ops.inverted_residual(X, None, DW, ones(24, 16)),
        ValueError,
        "inverted_residual: project has 24 input channels but the output of dw has 16",
    ),
    "inverted bias without weights": (
        lambda: ops.inverted_residual(X, None, DW, PW, expand_bias=ones(16)),
        ValueError,
        "inverted_residual: expand_bias is given but expand is None",
    ),
    "bias": (
        lambda: ops.depthwise_conv2d(X, DW, ones(1, 16)),
        ValueError,
        (
            "depthwise_conv2d: bias has shape (1, 16); it must have one entry for each of the 16 output channels of w; "
            "give shape (16,)"
        ),
    ),
    "residual": (
        lambda: ops.depthwise_conv2d(X, DW, residual=X),
        ValueError,
        "depthwise_conv2d: residual has shape (1, 8, 8, 16); it must have the shape of the result, (1, 6, 6, 16)",
    ),
    "signal": (
        lambda: ops.depthwise_conv1d(ones(50, 16), ones(4, 8)),
        ValueError,
        "depthwise_conv1d: w has 8 channels but x has 16; the second axis of w must equal the channels of x",
    ),
    "signal dimensions": (
        lambda: ops.depthwise_conv1d(X, ones(4, 16)),
        ValueError,
        "depthwise_conv1d: x has shape (1, 8, 8, 16); it must be (N, T, C) or (T, C); reshape x",
    ),
    "signal w dimensions": (
        lambda: ops.depthwise_conv1d(ones(50, 16), ones(4)),
        ValueError,
        "it must be (K, C) or (K, C, M); repeat one window for all channels, np.repeat(w[:, None], 16, axis=1)",
    ),
    "empty signal": (lambda: ops.depthwise_conv1d(ones(0, 4), ones(2, 4)), ValueError, "x has 0 steps and 4 channels"),
    # options
    "stride 0": (
        lambda: ops.depthwise_conv2d(X, DW, stride=0),
        ValueError,
        "depthwise_conv2d: stride is 0; it must be at least 1; give 1 or more",
    ),
    "stride -1": (lambda: ops.conv2d(X, CONV, stride=(1, -1)), ValueError, "conv2d: stride[1] is -1; it must be at"),
    "stride 1.0": (
        lambda: ops.conv2d(X, CONV, stride=1.0),
        TypeError,
        "conv2d: stride is 1.0 of type float; it must be an integer",
    ),
    "stride True": (lambda: ops.conv2d(X, CONV, stride=True), TypeError, "conv2d: stride is True, a bool"),
    "stride triple": (lambda: ops.conv2d(X, CONV, stride=(1, 1, 1)), ValueError, "stride is (1, 1, 1), with 3 entries"),
    "stride None": (lambda: ops.conv2d(X, CONV, stride=None), TypeError, "conv2d: stride is None of type NoneType"),
    "dilation 0": (lambda: ops.depthwise_conv2d(X, DW, dilation=(0, 1)), ValueError, "dilation[0] is 0"),
    "stride pair of a signal": (
        lambda: ops.depthwise_conv1d(ones(50, 16), ones(4, 16), stride=(1, 1)),
        TypeError,
        "depthwise_conv1d: stride is (1, 1) of type tuple; it must be an integer",
    ),
    "padding -1": (lambda: ops.depthwise_conv2d(X, DW, padding=-1), ValueError, "padding is -1; it must be at least 0"),
    "padding name": (
        lambda: ops.depthwise_conv2d(X, DW, padding="SAME"),
        ValueError,
        (
            "depthwise_conv2d: padding is 'SAME'; it must be an integer, (vertical, horizontal), ((top, bottom), "
            "(left, right)), 'same' or 'valid'; use 'same'"
        ),
    ),
    "padding name like no other": (
        lambda: ops.depthwise_conv2d(X, DW, padding="full"),
        ValueError,
        "'same' or 'valid'; use one of these",
    ),
    "padding with borders": (
        lambda: ops.depthwise_conv2d(X, DW, padding="replicate"),
        ValueError,
        "'same' or 'valid'; pad rows and columns with np.pad, mode='edge', before the call, and use 'valid'",
    ),
    "padding name of signals": (
        lambda: ops.depthwise_conv1d(X[0], DW[0], padding="Casual"),
        ValueError,
        "'valid' or 'causal'; use 'causal'",
    ),
    "activation of another spelling": (
        lambda: ops.depthwise_conv2d(X, DW, activation="Hard-Swish"),
        ValueError,
        "or ('leaky_relu', slope); use 'hardswish'",
    ),
    "activation of another name": (
        lambda: ops.depthwise_conv2d(X, DW, activation="swish"),
        ValueError,
        "or ('leaky_relu', slope); use 'silu'",
    ),
    "activation of another name for none": (
        lambda: ops.depthwise_conv2d(X, DW, activation="linear"),
        ValueError,
        "or ('leaky_relu', slope); use None",
    ),
    "backend of another spelling": (
        lambda: ops.depthwise_conv2d(X, DW, backend="Cython"),
        ValueError,
        "kernel names that list_kernels() gives; use 'cython'",
    ),
    "backend that is a part of a name": (
        lambda: ops.depthwise_conv2d(X, DW, backend="any"),
        ValueError,
        "kernel names that list_kernels() gives; use 'depthwise_f32_any_",
    ),
    "channels first, without groups": (
        lambda: ops.depthwise_conv2d(X, ones(16, 31, 31)),
        ValueError,
        "if these are (C, KH, KW), pass w.transpose(1, 2, 0)",
    ),
    "channels first, of a signal": (
        lambda: ops.depthwise_conv1d(X[0], ones(16, 127)),
        ValueError,
        "if these are (C, K), pass w.T",
    ),
    "layout of another name": (
        lambda: ops.depthwise_conv2d(X, DW, layout="channels_first"),
        ValueError,
        "it must be 'NHWC' or 'NCHW'; use 'NCHW'",
    ),
    "channels, and what to do": (
        lambda: ops.depthwise_conv2d(X, ones(3, 3, 7)),
        ValueError,
        "the third axis of w must equal the channels of x; give x with 7 channels, or w for 16",
    ),
    "channels within, and what to do": (
        lambda: ops.separable_conv2d(X, DW, ones(7, 8)),
        ValueError,
        "the first axis of pw must equal the channels of the output of dw; give pw for 16 channels",
    ),
    "padding causal": (
        lambda: ops.depthwise_conv2d(X, DW, padding="causal"),
        ValueError,
        "write ((pad, 0), (0, 0)) where rows are the causal axis, ((0, 0), (pad, 0)) where columns are",
    ),
    "padding four": (lambda: ops.depthwise_conv2d(X, DW, padding=(1, 1, 1, 1)), ValueError, "padding is (1, 1, 1, 1)"),
    "padding mixed": (lambda: ops.depthwise_conv2d(X, DW, padding=(1, (1, 1))), ValueError, "padding is (1, (1, 1))"),
    "padding nested": (
        lambda: ops.depthwise_conv2d(X, DW, padding=((1, 1), (1, -2))),
        ValueError,
        "padding[1][1] is -2; it must be at least 0",
    ),
    "padding 0.5": (lambda: ops.depthwise_conv2d(X, DW, padding=0.5), TypeError, "padding is 0.5 of type float"),
    "padding of a signal": (
        lambda: ops.depthwise_conv1d(ones(50, 16), ones(4, 16), padding="full"),
        ValueError,
        "depthwise_conv1d: padding is 'full'; it must be an integer, (left, right), 'same', 'valid' or 'causal'",
    ),
    "window too large": (
        lambda: ops.depthwise_conv2d(X, ones(9, 3, 16)),
        ValueError,
        (
            "depthwise_conv2d: the window spans 9 rows (9 taps, dilation 1) but the padded image has 8; the output "
            "would be empty; use more padding or a smaller window"
        ),
    ),
    "dilated window too large": (
        lambda: ops.conv2d(X, CONV, dilation=(1, 4)),
        ValueError,
        "conv2d: the window spans 9 columns (3 taps, dilation 4) but the padded image has 8",
    ),
    "activation": (
        lambda: ops.depthwise_conv2d(X, DW, activation="swish"),
        ValueError,
        "depthwise_conv2d: activation is 'swish'; it must be None, 'relu', 'relu6', 'hardswish', ",
    ),
    "dw_activation": (
        lambda: ops.separable_conv2d(X, DW, PW, dw_activation=6),
        TypeError,
        "separable_conv2d: dw_activation is of type int; it must be None, 'relu'",
    ),
    "layout": (
        lambda: ops.depthwise_conv2d(X, DW, layout="nhwc"),
        ValueError,
        "depthwise_conv2d: layout is 'nhwc'; it must be 'NHWC' or 'NCHW'; use 'NHWC'",
    ),
    "layout None": (lambda: ops.depthwise_conv2d(X, DW, layout=None), ValueError, "layout is None"),
    "backend": (
        lambda: ops.depthwise_conv2d(X, DW, backend="cuda"),
        ValueError,
        "depthwise_conv2d: backend is 'cuda'; it must be 'auto', 'numba', 'cython', 'reference' or one of the ",
    ),
    "backend None": (lambda: ops.depthwise_conv2d(X, DW, backend=None), TypeError, "backend is of type NoneType"),
    "num_threads 0": (
        lambda: ops.depthwise_conv2d(X, DW, num_threads=0),
        ValueError,
        "depthwise_conv2d: num_threads is 0; it must be at least 1",
    ),
    "num_threads 1.5": (lambda: ops.depthwise_conv2d(X, DW, num_threads=1.5), TypeError, "num_threads is 1.5 of type"),
    # types
    "integers": (
        lambda: ops.depthwise_conv2d(X.astype(np.int64), DW),
        TypeError,
        "depthwise_conv2d: x has dtype int64; it must be float32 or float64; convert it with x.astype(np.float32)",
    ),
    "uint8": (lambda: ops.depthwise_conv2d(X.astype(np.uint8), DW), TypeError, "x has dtype uint8"),
    "bool": (lambda: ops.depthwise_conv2d(X, DW > 0), TypeError, "w has dtype bool"),
    "complex": (lambda: ops.depthwise_conv2d(X, DW.astype(np.complex64)), TypeError, "w has dtype complex64"),
    "float16": (lambda: ops.pointwise_conv2d(X.astype(np.float16), PW), TypeError, "x has dtype float16"),
    "longdouble": (lambda: ops.pointwise_conv2d(X.astype("g"), PW), TypeError, "x has dtype"),
    "object": (lambda: ops.pointwise_conv2d(X.astype(object), PW), TypeError, "x has dtype object"),
    "None": (lambda: ops.pointwise_conv2d(None, PW), TypeError, "pointwise_conv2d: x is of type NoneType; it must be"),
    "w None": (lambda: ops.separable_conv2d(X, DW, None), TypeError, "separable_conv2d: pw is of type NoneType"),
    "text": (lambda: ops.pointwise_conv2d("x", PW), TypeError, "pointwise_conv2d: x is of type str; it must be a"),
    "texts": (lambda: ops.pointwise_conv2d(np.array(["1"]), PW), TypeError, "x has dtype <U1; it must be float32 or"),
    "list": (
        lambda: ops.pointwise_conv2d([[[1] * 16]], PW),
        TypeError,
        "x has dtype int64; it must be float32 or float64; convert it with np.asarray(x, np.float32)",
    ),
    "ragged": (lambda: ops.pointwise_conv2d([[[1.0], [1.0, 2.0]]], PW), TypeError, "x of type list is no array"),
    "masked": (
        lambda: ops.depthwise_conv2d(X, MASKED),
        TypeError,
        "depthwise_conv2d: w is a masked array; masked elements have no meaning here; fill them with w.filled(value)",
    ),
    "x and w": (
        lambda: ops.depthwise_conv2d(X.astype(np.float64), DW),
        TypeError,
        (
            "depthwise_conv2d: x has dtype float64 but w has float32; all arrays must share one dtype; convert it with "
            "np.asarray(x, np.float32)"
        ),
    ),
    "x and wider w": (
        lambda: ops.depthwise_conv2d(X, DW.astype(np.float64)),
        TypeError,
        (
            "depthwise_conv2d: x has dtype float32 but w has float64; all arrays must share one dtype; convert w with "
            "np.asarray(w, np.float32), or x with np.asarray(x, np.float64)"
        ),
    ),
    "bias type": (
        lambda: ops.depthwise_conv2d(X, DW, ones(16, dtype=np.float64)),
        TypeError,
        (
            "depthwise_conv2d: bias has dtype float64 but w has float32; all arrays must share one dtype; convert it "
            "with np.asarray(bias, np.float32)"
        ),
    ),
    "bias number": (
        lambda: ops.depthwise_conv2d(X, DW, 0.5),
        ValueError,
        (
            "depthwise_conv2d: bias has shape (); it must have one entry for each of the 16 output channels of w; "
            "give shape (16,)"
        ),
    ),
    "bias list": (
        lambda: layers.DepthwiseConv2d(DW, [0.5] * 16),
        TypeError,
        "DepthwiseConv2d: bias has dtype float64 but w has float32; all arrays must share one dtype; convert it with",
    ),
    "residual type": (
        lambda: ops.depthwise_conv2d(X, DW, padding=1, residual=X.astype(np.float64)),
        TypeError,
        "residual has dtype float64 but x has float32",
    ),
    "dw and pw": (
        lambda: ops.separable_conv2d(X, DW, PW.astype(np.float64)),
        TypeError,
        "separable_conv2d: pw has dtype float64 but dw has float32",
    ),
    # out
    "out shape": (
        lambda: ops.depthwise_conv2d(X, DW, out=ones(1, 8, 8, 16)),
        ValueError,
        (
            "depthwise_conv2d: out has shape (1, 8, 8, 16); the result has shape (1, 6, 6, 16); make it with "
            "np.empty((1, 6, 6, 16), np.float32)"
        ),
    ),
    "out shape, channels first": (
        lambda: ops.depthwise_conv2d(ones(16, 8, 8), DW, layout="NCHW", out=ones(6, 6, 16)),
        ValueError,
        "out has shape (6, 6, 16); the result has shape (16, 6, 6)",
    ),
    "out type": (
        lambda: ops.depthwise_conv2d(X, DW, out=ones(1, 6, 6, 16, dtype=np.float64)),
        TypeError,
        "out has dtype float64 but x has float32",
    ),
    "out read-only": (
        lambda: ops.depthwise_conv2d(X, DW, out=np.broadcast_to(F32(0), (1, 6, 6, 16))),
        ValueError,
        "depthwise_conv2d: out is read-only; it must be writeable; make one with np.empty((1, 6, 6, 16), np.float32)",
    ),
    "out list": (
        lambda: ops.depthwise_conv2d(X, DW, out=[]),
        TypeError,
        "out is of type list; it must be a NumPy array",
    ),
    "out masked": (
        lambda: ops.depthwise_conv2d(X, DW, out=np.ma.zeros((1, 6, 6, 16), F32)),
        TypeError,
        "out is of type MaskedArray",
    ),
    # dwconv2d
    "dwconv2d input": (
        lambda: ops.dwconv2d(ones(3, 8), ones(3, 1, 3, 3)),
        ValueError,
        "dwconv2d: input has shape (3, 8); it must be (N, C, H, W) or (C, H, W); reshape input",
    ),
    "dwconv2d weight": (
        lambda: ops.dwconv2d(ones(3, 8, 8), ones(3, 3, 3)),
        ValueError,
        "dwconv2d: weight has shape (3, 3, 3); it must be (Cout, Cin / groups, KH, KW)",
    ),
    "dwconv2d groups": (
        lambda: ops.dwconv2d(ones(3, 8, 8), ones(3, 1, 3, 3), groups=2),
        ValueError,
        "dwconv2d: groups is 2 but input has 3 channels and weight has 3 output channels",
    ),
    "dwconv2d channels": (
        lambda: ops.dwconv2d(ones(3, 8, 8), ones(3, 1, 3, 3)),
        ValueError,
        (
            "dwconv2d: weight has 1 input channels but input has 3 and groups is 1; the second axis of weight must "
            "equal the channels of input divided by groups, 3; for a depthwise convolution give groups=3"
        ),
    ),
    "dwconv2d groups forgotten": (
        lambda: ops.dwconv2d(ones(32, 8, 8), ones(64, 4, 3, 3)),
        ValueError,
        "must equal the channels of input divided by groups, 32; give groups=8",
    ),
    "dwconv2d channels last": (
        lambda: ops.dwconv2d(ones(14, 14, 8), ones(8, 1, 3, 3)),
        ValueError,
        (
            "dwconv2d: weight has 1 input channels but input has 14 and groups is 1; the second axis of weight must "
            "equal the channels of input divided by groups, 14; if the channels of input are last, give "
            "np.moveaxis(input, -1, -3)"
        ),
    ),
    "dwconv2d without channels": (
        lambda: ops.dwconv2d(ones(0, 8, 0), ones(4, 1, 3, 3)),
        ValueError,
        "the second axis of weight must equal the channels of input divided by groups, 0",
    ),
    "dwconv2d same": (
        lambda: ops.dwconv2d(ones(3, 8, 8), ones(3, 1, 3, 3), stride=2, padding="same", groups=3),
        ValueError,
        "dwconv2d: padding is 'same' but stride is 2",
    ),
    "dwconv2d padding": (
        lambda: ops.dwconv2d(ones(3, 8, 8), ones(3, 1, 3, 3), padding=((1, 1), (1, 1)), groups=3),
        TypeError,
        "dwconv2d: padding is (1, 1) of type tuple; it must be an integer",
    ),
    "dwconv2d types": (
        lambda: ops.dwconv2d(ones(3, 8, 8, dtype=np.float64), ones(3, 1, 3, 3), groups=3),
        TypeError,
        "dwconv2d: input has dtype float64 but weight has float32",
    ),
}
