ABI: int
MACHINE: str
RUN: int
RUN_STEPS: int
IMAGES: int

def run(
    kernel: int,
    plan: int,
    x: int,
    residual: int,
    out: int,
    scratch: int,
    scratch_stride: int,
    rows: int,
    row_granule: int,
    row_parts: int,
    blocks: int,
    block_parts: int,
    tasks: int,
    threads: int,
    waking: int,
    /,
) -> None: ...
def run_steps(steps: int, count: int, threads: int, where: tuple[int, ...], /) -> None: ...
def address(array: object, /) -> int: ...
def cpuid() -> tuple[int, int, int, int]: ...
