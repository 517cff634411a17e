"""The threads of the compiled driver (threads.h), in small programs of their own, which ThreadSanitizer needs, too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from building import CC, ROOT, compiles

from dwcpu.cpus import usable_cpus

#: Several callers share jobs at once; each step reads what the whole step before it wrote, so that an access that the
#: pool does not order is a race. Every other job is too small to wake helpers, and now and then all of them sleep.
CALLERS = """
#include "threads.h"
#include <stdio.h>
#include <unistd.h>
enum { CALLERS = 4, ROUNDS = 2000, STEPS = 5, TASKS = 7 };
typedef struct { int done[STEPS][TASKS]; } Work;

static void do_task(const void *context, int64_t step, int64_t task) {
    Work *work = (Work *)context;
    int right = 1;
    for (int t = 0; step && t < TASKS; ++t) right &= work->done[step - 1][t] == 1;
    work->done[step][task] += right;
}

static void *call(void *failed) {
    int tasks[STEPS];
    for (int step = 0; step < STEPS; ++step) tasks[step] = TASKS;
    for (int round = 0; round < ROUNDS; ++round) {
        Work work;
        memset(&work, 0, sizeof work);
        if (round % 500 == 0) usleep(20000);
        if (!share(do_task, &work, STEPS, tasks, 2 + round % 3, round % 2)) {
            if (round % 2) *(int *)failed = 1;
            for (int t = 0; t < STEPS * TASKS; ++t) do_task(&work, t / TASKS, t % TASKS);
        }
        for (int t = 0; t < STEPS * TASKS; ++t)
            if (work.done[t / TASKS][t % TASKS] != 1) *(int *)failed = 1;
    }
    return NULL;
}

int main(void) {
    pthread_t callers[CALLERS];
    int failed[CALLERS] = {0}, any = 0;
    set_up();
    for (int i = 0; i < CALLERS; ++i) pthread_create(&callers[i], NULL, call, &failed[i]);
    for (int i = 0; i < CALLERS; ++i) {
        pthread_join(callers[i], NULL);
        any |= failed[i];
    }
    printf("%s", any ? "wrong" : "right");
    return any;
}
"""


@pytest.mark.parametrize(
    ("weakened", "raced"),
    [
        ([], False),
        (["-D__ATOMIC_SEQ_CST=__ATOMIC_RELAXED"], True),
        (["-D__ATOMIC_RELEASE=__ATOMIC_RELAXED"], True),
        (["-D__ATOMIC_ACQUIRE=__ATOMIC_RELAXED"], True),
    ],
    ids=["as it is", "ends of steps order nothing", "jobs are not made known", "who joins sees nothing"],
)
def test_threads_of_the_pool_do_not_race(weakened: list[str], raced: bool, tmp_path: Path) -> None:
    """Nor is this for want of looking: with orders of memory that are too weak they do."""
    flags = ["-O1", "-g1", "-w", "-pthread", "-fsanitize=thread"]
    if not compiles(*flags):
        pytest.skip("there is no compiler with ThreadSanitizer")
    program = tmp_path / "pool"
    sources = f"-I{ROOT / 'dwcpu' / 'cython_kernels'}"
    command = [*CC, "-x", "c", "-", *flags, *weakened, sources, "-o", str(program)]
    subprocess.run(command, input=CALLERS, text=True, check=True)
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run([str(program)], env=environment, capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run with this kernel's addresses")
    if raced:
        assert done.returncode != 0
        assert "data race" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, "right"), done.stderr


#: Jobs for one helper of seven. It prints how many of them were asleep on the way, and how often a thread went to sleep
#: in each job.
SURPLUS = """
#include "threads.h"
#include <stdio.h>
#include <sys/resource.h>
enum { HELPERS = 7, JOBS = 20000 };

static void do_task(const void *context, int64_t step, int64_t task) {
    (void)context, (void)step, (void)task;
    for (int i = 0; i < 100; ++i) pause_briefly();
}

int main(void) {
    int tasks[1] = {HELPERS + 1};
    int64_t asleep = 0;
    struct rusage usage;
    set_up();
    share(do_task, NULL, 1, tasks, HELPERS + 1, 1);
    for (int job = 0; job < JOBS; ++job) {
        share(do_task, NULL, 1, tasks, 2, 1);
        if (job >= JOBS / 2) asleep += __atomic_load_n(&pool.asleep, __ATOMIC_RELAXED);
    }
    getrusage(RUSAGE_SELF, &usage);
    printf("%f %f", (double)asleep / (JOBS - JOBS / 2), (double)usage.ru_nvcsw / JOBS);
    return 0;
}
"""


@pytest.mark.skipif(usable_cpus() < 2, reason="helpers get to sleep when the caller waits")
def test_helpers_that_are_too_many_sleep(tmp_path: Path) -> None:
    """Jobs that others are quicker to join neither keep them awake nor wake them: they would take cores from those."""
    if not compiles("-O2", "-pthread"):
        pytest.skip("there is no compiler")
    program = tmp_path / "surplus"
    command = [*CC, "-x", "c", "-", "-O2", "-w", "-pthread", f"-I{ROOT / 'dwcpu' / 'cython_kernels'}"]
    subprocess.run([*command, "-o", str(program)], input=SURPLUS, text=True, check=True)
    for _ in range(20):  # other work on the machine may take the core of the one that is needed, and others are woken
        output = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
        asleep, switches = map(float, output.split())
        if asleep > 5.5 and switches < 0.05:
            return
    pytest.fail(f"of six helpers that nobody needs {asleep:.2f} sleep, {switches:.2f} are woken in each job")
