"""Memory on large pages: where it begins, that it is nobody else's, that it is free again, and systems without them."""

from __future__ import annotations

import itertools
import mmap
import random
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

import dwcpu
from dwcpu import pages
from dwcpu.arrays import LINE

MIB = 1 << 20
#: Zero, one, some of a page, a page, some of a large one, one, and more.
SIZES = (0, 1, 63, 64, 65, 4000, 4096, 70_000, MIB - 1, MIB, 2 * MIB, 2 * MIB + 1, 9 * MIB + 5)

has_large = pytest.mark.skipif(pages._large() == 0, reason="there are no large pages")


def _lends() -> bool:
    try:
        return "[never]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False


@pytest.fixture(params=["as here", "without"])
def system(request: pytest.FixtureRequest, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system as it is, and as if it had no large pages."""
    if request.param == "without":
        monkeypatch.setattr(pages, "_large", lambda: 0)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of what others cut up."""
    monkeypatch.setattr(pages, "_rests", [])


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("size", SIZES)
def test_memory_is_as_large_as_asked_for_and_begins_on_a_page(size: int) -> None:
    memory = pages.whole(size)
    assert (memory.dtype, memory.shape) == (np.uint8, (size,))
    assert size == 0 or memory.ctypes.data % mmap.PAGESIZE == 0
    memory[:] = 1


@has_large
@pytest.mark.parametrize("share", [2, 1])
def test_what_fills_half_of_a_large_page_begins_on_one(share: int) -> None:
    large = pages._large()
    assert pages.whole(large // share).ctypes.data % large == 0


@pytest.mark.usefixtures("system")
def test_what_lasts_begins_on_lines_and_does_not_overlap() -> None:
    order = random.Random(0)
    sizes = [order.choice(SIZES) for _ in range(60)]
    made = [pages.lasting(size) for size in sizes]
    for number, memory in enumerate(made):
        memory[:] = number
    for number, (size, memory) in enumerate(zip(sizes, made, strict=True)):
        assert memory.shape == (size,)
        assert size == 0 or memory.ctypes.data % LINE == 0
        assert (memory == number).all()


@has_large
@pytest.mark.usefixtures("fresh")
def test_small_arrays_lie_side_by_side_and_large_ones_elsewhere() -> None:
    first, second, large, third = (pages.lasting(size).ctypes.data for size in (100, 64, 3 * MIB, 1))
    assert (second - first, third - second) == (128, 64)
    assert abs(large - first) >= pages._large()


@pytest.mark.usefixtures("system")
def test_threads_get_memory_of_their_own() -> None:
    got: list[list[np.ndarray]] = [[] for _ in range(8)]
    ready = threading.Barrier(8)

    def work(number: int) -> None:
        ready.wait()
        for _ in range(200):
            got[number].append(pages.lasting(1000))
            got[number][-1][:] = number

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((memory == number).all() for number, made in enumerate(got) for memory in made)


@has_large
@pytest.mark.usefixtures("fresh")
def test_memory_is_free_when_the_last_array_in_it_is_gone() -> None:
    made = [pages.lasting(pages._large() // 4) for _ in range(4)]
    owner = made[0].base
    assert owner is not None and all(each.base is owner for each in made)
    gone = weakref.ref(owner)
    del owner, made[:3]
    pages.lasting(64)  # of the next page
    assert gone() is not None
    made.clear()
    assert gone() is None


@has_large
@pytest.mark.usefixtures("fresh")
def test_a_small_array_that_is_left_over_holds_a_page_and_no_more() -> None:
    large = pages._large()
    for size in (0, 1, large // 4, large // 2, 5 * large):
        pages.lasting(size)
        owner = pages.lasting(1000).base
        assert owner is not None and owner.size <= 2 * large  # with room to begin at a large page, never touched


@has_large
def test_a_system_that_refuses_gives_memory_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without large pages; no memory by that way."""

    class Refusing(mmap.mmap):
        def madvise(self, *given: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    pages.whole(4 * MIB)[:] = 1

    def failing(*given: object, **options: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", failing)
    memory = pages.whole(4 * MIB)
    memory[:] = 1
    assert memory.size == 4 * MIB


@pytest.mark.parametrize(
    "text", [None, "", "what?", str(512 * MIB)], ids=["no file", "empty", "no number", "too large"]
)
def test_without_a_size_of_pages_that_is_worth_it_there_are_none(
    text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read)
    assert pages._large.__wrapped__() == 0


@has_large
@pytest.mark.skipif(not _lends(), reason="large pages are switched off")
def test_weights_and_activations_of_a_network_are_on_large_pages() -> None:
    program = """
import numpy as np, dwcpu
from pathlib import Path
def large():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(text.split("AnonHugePages:")[1].split()[0])
before = large()
layers = [dwcpu.PointwiseConv2d(np.ones((1024, 1024), np.float32)) for _ in range(3)]
row = dwcpu.Sequential(*layers)
x = np.ones((1, 32, 32, 1024), np.float32)
made = row(x)
print(large() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 3 * 4096  # KiB: weights alone


@has_large
@pytest.mark.usefixtures("fresh")
def test_layers_share_pages() -> None:
    layers = [dwcpu.PointwiseConv2d(np.eye(64, dtype=np.float32)) for _ in range(4)]
    x = np.arange(4 * 4 * 64, dtype=np.float32).reshape(1, 4, 4, 64)
    places = []
    for layer in layers:
        np.testing.assert_array_equal(layer(x), x)
        (node,) = layer.nodes(x.shape, 1)
        places.append(node.operation.weights)
    assert len({place.address // pages._large() for place in places}) == 1
    assert all(after.address >= before.address + before.size for before, after in itertools.pairwise(places))
