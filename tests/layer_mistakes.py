"""As `mistakes`: of layers, of networks of them, and of what prepares their weights."""

from __future__ import annotations

import numpy as np
from mistakes import CONV, DW, ELSEWHERE, F32, PW, X, ones

from dwcpu import fold_batchnorm, layers, models, ops, sequential, tuning

LAYER_MISTAKES = {
    # layers
    "layer w": (
        lambda: layers.DepthwiseConv2d(ones(3, 16)),
        ValueError,
        "DepthwiseConv2d: w has shape (3, 16); it must be (KH, KW, C) or (KH, KW, C, M); repeat one window for all ",
    ),
    "layer bias": (lambda: layers.PointwiseConv2d(PW, ones(16)), ValueError, "PointwiseConv2d: bias has shape (16,)"),
    "layer stride": (lambda: layers.DepthwiseConv2d(DW, stride=0), ValueError, "DepthwiseConv2d: stride is 0"),
    "layer padding": (lambda: layers.Conv2d(CONV, padding="full"), ValueError, "Conv2d: padding is 'full'"),
    "layer dilation": (lambda: layers.Conv2d(CONV, dilation=0), ValueError, "Conv2d: dilation is 0"),
    "layer groups": (
        lambda: layers.Conv2d(CONV, groups=5),
        ValueError,
        "Conv2d: groups is 5 but w has 24 output channels; groups must divide them; give w 20 or 25",
    ),
    "layer empty w": (lambda: layers.PointwiseConv2d(ones(0, 4)), ValueError, "PointwiseConv2d: w has shape (0, 4)"),
    "layer scalar w": (lambda: layers.Conv2d(F32(1)), TypeError, "Conv2d: w is 1.0; it must be an array"),
    "layer pw": (lambda: layers.SeparableConv2d(DW, ones(8, 8)), ValueError, "pw has 8 input channels but the output"),
    "layer dw of PyTorch": (
        lambda: layers.SeparableConv2d(ones(8, 1, 3, 3), ones(8, 4)),
        ValueError,
        "dw has shape (8, 1, 3, 3) and gives 9 channels but pw takes 8; dw must be (KH, KW, C) or (KH, KW, C, M); if",
    ),
    "layer project": (
        lambda: layers.InvertedResidual(None, DW, ones(8, 8)),
        ValueError,
        "InvertedResidual: project has 8 input channels but the output of dw has 16",
    ),
    "layer activation": (lambda: layers.Conv2d(CONV, activation="x"), ValueError, "Conv2d: activation is 'x'"),
    "layer backend": (lambda: layers.Conv2d(CONV, backend="x"), ValueError, "Conv2d: backend is 'x'"),
    "layer padding array": (
        lambda: layers.DepthwiseConv2d(DW, padding=np.array([1, 1])),
        TypeError,
        "DepthwiseConv2d: padding is array([1, 1]) of type ndarray; it must be an integer",
    ),
    "layer stride array": (
        lambda: layers.Conv2d(CONV, stride=np.array([1, 1])),
        TypeError,
        "Conv2d: stride is array([1, 1]) of type ndarray",
    ),
    "layer activation array": (
        lambda: layers.Conv2d(CONV, activation=np.array(["relu", "relu"])),
        TypeError,
        "Conv2d: activation is of type ndarray",
    ),
    "slope beyond float64": (
        lambda: ops.depthwise_conv2d(X, DW, activation=("leaky_relu", 10**400)),
        ValueError,
        "depthwise_conv2d: activation[1] is beyond float64; it must fit",
    ),
    "clip beyond float64": (
        lambda: layers.Conv2d(CONV, activation=("clip", 0, 10**400)),
        ValueError,
        "Conv2d: activation[2] is beyond float64; it must fit",
    ),
    "layer x": (
        lambda: layers.DepthwiseConv2d(DW)(ones(8, 8, 4)),
        ValueError,
        "DepthwiseConv2d: w has 16 channels but x has 4",
    ),
    "layer x type": (
        lambda: layers.DepthwiseConv2d(DW)(X.astype(np.float64)),
        TypeError,
        "DepthwiseConv2d: x has dtype float64 but w has float32",
    ),
    "Sequential": (
        lambda: sequential.Sequential([1]),
        TypeError,
        "Sequential: layer 0 is of type list; every layer must",
    ),
    "Sequential of a class": (
        lambda: sequential.Sequential(layers.DepthwiseConv2d(DW), layers.PointwiseConv2d),
        TypeError,
        "Sequential: layer 1 is the class PointwiseConv2d; every layer must be one that was made; make it, as in",
    ),
    "Sequential of functions, threads": (
        lambda: sequential.Sequential(np.abs)(X, num_threads=-5),
        ValueError,
        "Sequential: num_threads is -5; it must be at least 1",
    ),
    "Sequential of nothing, out": (
        lambda: sequential.Sequential()(X, out=X.copy()),
        TypeError,
        "Sequential: out or residual is given but there are no layers; only a dwcpu layer can take them; leave",
    ),
    "Residual of nothing": (
        lambda: sequential.Residual(),
        TypeError,
        "Residual: there are no layers; the last must be",
    ),
    "Residual of a function": (
        lambda: sequential.Residual(layers.DepthwiseConv2d(DW), np.abs),
        TypeError,
        "Residual: the last layer is of type ufunc; the last must be a dwcpu layer that adds nothing else; end with",
    ),
    "Residual of a Residual": (
        lambda: sequential.Residual(sequential.Sequential(sequential.Residual(layers.DepthwiseConv2d(DW)))),
        TypeError,
        "Residual: the last layer is of type Residual; the last must be a dwcpu layer that adds nothing else; take its",
    ),
    "Residual of a row that ends with a function": (
        lambda: sequential.Residual(sequential.Sequential(layers.DepthwiseConv2d(DW), np.abs)),
        TypeError,
        "Residual: the last layer is of type ufunc; the last must be a dwcpu layer that adds nothing else; end with",
    ),
    "Residual of nothing inside": (
        lambda: sequential.Residual(sequential.Sequential(sequential.Sequential())),
        TypeError,
        "Residual: there are no layers; the last must be a dwcpu layer that adds nothing else",
    ),
    "Residual of other channels": (
        lambda: sequential.Residual(layers.DepthwiseConv2d(DW), layers.PointwiseConv2d(PW)),
        ValueError,
        "Residual: its layers take 16 channels and give 24; what is added must have as many as what it is added",
    ),
    "Residual of a smaller image": (
        lambda: sequential.Sequential(sequential.Residual(layers.DepthwiseConv2d(DW)))(X),
        ValueError,
        "shape of what it is added to; use stride 1 and padding='same' throughout, or a Sequential",
    ),
    "Residual of a list of a smaller image": (
        lambda: sequential.Residual(layers.DepthwiseConv2d(DW.astype(float)))(X.tolist()),
        ValueError,
        "Residual: its layers turn (1, 8, 8, 16) into (1, 6, 6, 16)",
    ),
    "Residual of what is called another way": (
        lambda: sequential.Residual(
            layers.DepthwiseConv2d(DW), type("Own", (sequential.Sequential,), {"__call__": 1})()
        ),
        TypeError,
        "Residual: the last layer is of type Own; the last must be",
    ),
    "Sequential, profile of a shape": (
        lambda: sequential.Sequential(layers.DepthwiseConv2d(DW)).profile((1, 8, 8, 16)),
        TypeError,
        "Sequential: profile is given (1, 8, 8, 16); it runs the layers on an array; give one, such as np.zeros((1, 8,",
    ),
    "Residual of a smaller image, out_shape": (
        lambda: sequential.Residual(layers.DepthwiseConv2d(DW)).out_shape((10, 10, 16)),
        ValueError,
        "Residual: its layers turn (10, 10, 16) into (8, 8, 16); what is added must have the shape of what it is",
    ),
    "Residual of a smaller image, explain": (
        lambda: sequential.Sequential(sequential.Residual(layers.DepthwiseConv2d(DW))).explain((10, 10, 16)),
        ValueError,
        "Sequential: layer 0, Residual: its layers turn (10, 10, 16) into (8, 8, 16); what is added must have the",
    ),
    "Residual and residual": (
        lambda: sequential.Residual(layers.DepthwiseConv2d(DW, padding=1))(X, residual=X),
        TypeError,
        "Residual: residual is given but the last layer adds the input of a Residual; it can add one thing; leave",
    ),
    "Sequential with a Residual and residual": (
        lambda: sequential.Sequential(np.abs, sequential.Residual(layers.DepthwiseConv2d(DW, padding=1)))(
            X, residual=X
        ),
        TypeError,
        "Sequential: residual is given but the last layer adds the input of a Residual; it can add one thing; leave",
    ),
    "Sequential out": (
        lambda: sequential.Sequential(np.abs)(X, out=X.copy()),
        TypeError,
        "Sequential: out or residual is given but the last layer is of type ufunc",
    ),
    "Sequential explain": (
        lambda: sequential.Sequential(layers.DepthwiseConv2d(DW), np.abs).explain((8, 8, 16)),
        TypeError,
        "layer 1 is of type ufunc; explain needs dwcpu layers throughout; ask a part without it, as in net[:1].explain",
    ),
    "Sequential autotune": (
        lambda: tuning.autotune(sequential.Sequential(layers.DepthwiseConv2d(DW), np.abs), (8, 8, 16)),
        TypeError,
        "autotune needs dwcpu layers throughout; ask a part without it, as in dwcpu.autotune(net[:1], ...)",
    ),
    "Sequential out_shape": (
        lambda: sequential.Sequential(np.abs).out_shape((8, 8, 16)),
        TypeError,
        "layer 0 is of type ufunc; out_shape needs dwcpu layers throughout; ask a part without it, as in net[1:].out",
    ),
    "Sequential mismatch": (
        lambda: sequential.Sequential(layers.DepthwiseConv2d(DW), layers.PointwiseConv2d(ones(8, 8))),
        ValueError,
        "Sequential: layer 1, PointwiseConv2d: w takes 8 channels but layer 0, DepthwiseConv2d, gives 16; neighbours",
    ),
    "Sequential mismatch before the last": (
        lambda: sequential.Sequential(
            np.abs, layers.DepthwiseConv2d(ones(3, 3, 8)), layers.PointwiseConv2d(ones(8, 4))
        )(X),
        ValueError,
        "Sequential: layer 1, DepthwiseConv2d: w has 8 channels but x has 16",
    ),
    "Sequential mismatch of types": (
        lambda: sequential.Sequential(sequential.Sequential(layers.DepthwiseConv2d(DW)))(X.astype(np.float64)),
        TypeError,
        "Sequential: layer 0, Sequential: layer 0, DepthwiseConv2d: x has dtype float64 but w has float32",
    ),
    "groups, channels on another axis": (
        lambda: ops.conv2d(ones(1, 4, 9, 9), ones(3, 3, 1, 8), groups=4),
        ValueError,
        f"x has 9 channels and w has 8 output channels; groups must divide both; {ELSEWHERE}",
    ),
    "dwconv2d, groups, channels last": (
        lambda: ops.dwconv2d(ones(1, 9, 9, 4), ones(4, 1, 3, 3), groups=4),
        ValueError,
        "choose a common divisor; if the channels of input are last, give np.moveaxis(input, -1, -3)",
    ),
    "None for padding": (
        lambda: ops.depthwise_conv2d(X, DW, padding=None),
        TypeError,
        "depthwise_conv2d: padding is None of type NoneType; it must be an integer; give one",
    ),
    "a float for x": (
        lambda: ops.pointwise_conv2d(3.0, PW),
        TypeError,
        "pointwise_conv2d: x is 3.0; it must be an array of float32 or float64; give the array itself",
    ),
    "fold_batchnorm, PyTorch's depthwise weights": (
        lambda: fold_batchnorm(ones(16, 1, 3, 3), None, *[ones(16)] * 4),
        ValueError,
        "; if these are PyTorch's depthwise weights, (C, 1, KH, KW), pass w[:, 0].transpose(1, 2, 0)",
    ),
    "fold_batchnorm, PyTorch's weights": (
        lambda: fold_batchnorm(ones(16, 8, 3, 3), None, *[ones(16)] * 4),
        ValueError,
        "; if these are weights (Cout, Cin, KH, KW), pass w.transpose(2, 3, 1, 0)",
    ),
    "fold_batchnorm, a matrix": (
        lambda: fold_batchnorm(ones(16, 8), None, *[ones(16)] * 4),
        ValueError,
        "; if these are weights (Cout, Cin), pass w.T",
    ),
    "no path": (
        lambda: models.mobilenet_v2(weights=3),
        TypeError,
        "the path is of type int; weights are read from a file; give its name",
    ),
    "a number for weights": (
        lambda: layers.DepthwiseConv2d(8, 3),
        TypeError,
        "DepthwiseConv2d: w is 8; it must be an array of float32 or float64; give the array itself",
    ),
    "True for a residual": (
        lambda: ops.depthwise_conv2d(X, DW, padding=1, residual=True),
        TypeError,
        "depthwise_conv2d: residual is True; it must be an array of float32 or float64; give the array itself",
    ),
    "Sequential small image": (
        lambda: sequential.Sequential(layers.PointwiseConv2d(PW), layers.DepthwiseConv2d(ones(9, 9, 24)))(X),
        ValueError,
        "Sequential: layer 1, DepthwiseConv2d: ",
    ),
    "Sequential explain small image": (
        lambda: sequential.Sequential(layers.PointwiseConv2d(PW), layers.DepthwiseConv2d(ones(9, 9, 24))).explain(
            (8, 8, 16)
        ),
        ValueError,
        "Sequential: layer 1, DepthwiseConv2d: ",
    ),
    "Sequential out_shape small image": (
        lambda: sequential.Sequential(layers.PointwiseConv2d(PW), layers.DepthwiseConv2d(ones(9, 9, 24))).out_shape(
            (8, 8, 16)
        ),
        ValueError,
        "Sequential: layer 1, DepthwiseConv2d: ",
    ),
    "Sequential neighbours of two types": (
        lambda: sequential.Sequential(layers.DepthwiseConv2d(DW), layers.PointwiseConv2d(PW.astype(np.float64))),
        TypeError,
        "Sequential: layer 1, PointwiseConv2d: w has dtype float64 but layer 0, DepthwiseConv2d, gives float32; neigh",
    ),
    "Sequential neighbours of two layouts": (
        lambda: sequential.Sequential(layers.DepthwiseConv2d(DW, layout="NCHW"), layers.PointwiseConv2d(PW)),
        ValueError,
        "Sequential: layer 1, PointwiseConv2d: layout is 'NHWC' but layer 0, DepthwiseConv2d, gives 'NCHW'; neighbours",
    ),
    "Sequential neighbours, one of them a Sequential": (
        lambda: sequential.Sequential(
            np.abs, layers.DepthwiseConv2d(DW), sequential.Sequential(layers.DepthwiseConv2d(ones(3, 3, 3)))
        ),
        ValueError,
        "Sequential: layer 2, DepthwiseConv2d: w takes 3 channels but layer 1, DepthwiseConv2d, gives 16; neighbours",
    ),
    # fold_batchnorm
    "fold length": (
        lambda: layers.fold_batchnorm(DW, None, ones(8), ones(8), ones(8), ones(8)),
        ValueError,
        (
            "fold_batchnorm: mean has 8 entries but w has shape (3, 3, 16); there must be one for each output channel; "
            "give 16"
        ),
    ),
    "fold length, columns x channels": (
        lambda: layers.fold_batchnorm(DW, None, None, None, ones(48), ones(48)),
        ValueError,
        "fold_batchnorm: mean has 48 entries but w has shape (3, 3, 16)",
    ),
    "fold length, pointwise": (
        lambda: layers.fold_batchnorm(PW, None, None, None, ones(16 * 24), ones(16 * 24)),
        ValueError,
        "fold_batchnorm: mean has 384 entries but w has shape (16, 24)",
    ),
    "fold length, four axes": (
        lambda: layers.fold_batchnorm(CONV, None, None, None, ones(16), ones(16)),
        ValueError,
        "give 24, or 384 for depthwise weights with a multiplier",
    ),
    "fold var None": (
        lambda: layers.fold_batchnorm(DW, None, None, None, ones(16), None),
        TypeError,
        "fold_batchnorm: var is of type NoneType",
    ),
    "fold eps": (
        lambda: layers.fold_batchnorm(DW, None, None, None, ones(16), ones(16), eps="a"),
        TypeError,
        "fold_batchnorm: eps is of type str; it must be a real number",
    ),
    "fold eps infinite": (
        lambda: layers.fold_batchnorm(DW, None, None, None, ones(16), ones(16), eps=np.inf),
        ValueError,
        "fold_batchnorm: eps is inf; it must be finite",
    ),
    "fold gamma": (
        lambda: layers.fold_batchnorm(DW, None, ones(8), ones(16), ones(16), ones(16)),
        ValueError,
        "fold_batchnorm: gamma has shape (8,); it must have shape (16,), like mean",
    ),
    "fold var": (
        lambda: layers.fold_batchnorm(DW, None, ones(16), ones(16), ones(16), -ones(16)),
        ValueError,
        "fold_batchnorm: var + eps is not positive everywhere",
    ),
    "fold var NaN": (
        lambda: layers.fold_batchnorm(DW, None, None, None, ones(16), ones(16) * np.nan),
        ValueError,
        "var + eps is not positive everywhere",
    ),
    "fold w": (
        lambda: layers.fold_batchnorm(ones(16), None, None, None, ones(16), ones(16)),
        ValueError,
        "fold_batchnorm: w has shape (16,); it must have 2, 3 or 4 axes",
    ),
    "fold mean": (
        lambda: layers.fold_batchnorm(DW, None, None, None, ones(16, 1), ones(16)),
        ValueError,
        "fold_batchnorm: mean has shape (16, 1); it must have one axis",
    ),
}
