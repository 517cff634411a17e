"""The threads of the compiled driver (threads.h), in small programs of their own, which ThreadSanitizer needs, too."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest
from building import CC, ROOT, compiles

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


#: Seven helpers sleep. How many are woken so that 1 is awake, 1 again, and 3; how many sleep then, and how many have
#: been woken and do not know it yet.
WAKING = """
#include <pthread.h>
#include <stdio.h>
static int signals;
static int counted(pthread_cond_t *condition) { ++signals; return pthread_cond_signal(condition); }
#define pthread_cond_signal counted
#include "threads.h"

int main(void) {
    int needed[] = {1, 1, 3};
    set_up();
    pool.helpers = pool.asleep = 7;
    for (int i = 0; i < 3; ++i, signals = 0) {
        wake_helpers(needed[i]);
        printf("%d ", signals);
    }
    printf("%d %d", pool.asleep, pool.woken);
    return 0;
}
"""

#: A helper that hears of a job that others were quicker to join whenever it looks: how often it looks until it sleeps.
LOOKING = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void look(void);
static int sleep_now(pthread_cond_t *condition, pthread_mutex_t *mutex);
#define __builtin_ia32_pause look
#define pthread_cond_wait sleep_now
#include "threads.h"
static int looks;

static void look(void) {
    ++pool.news;
    if (++looks == 10 * SPINS) exit(0);
}

static int sleep_now(pthread_cond_t *condition, pthread_mutex_t *mutex) {
    (void)condition, (void)mutex;
    printf("%d", looks);
    exit(0);
}

int main(void) {
    set_up();
    help(NULL);
}
"""


def printed(program: str, folder: Path) -> list[int]:
    """The numbers that a program in C prints."""
    if not compiles("-O2", "-pthread"):
        pytest.skip("there is no compiler")
    sources = f"-I{ROOT / 'dwcpu' / 'cython_kernels'}"
    command = [*CC, "-x", "c", "-", "-O2", "-w", "-pthread", sources, "-o", str(folder / "program")]
    subprocess.run(command, input=program, text=True, check=True)
    done = subprocess.run([str(folder / "program")], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def test_only_missing_helpers_are_woken(tmp_path: Path) -> None:
    """Who has been woken and does not run yet is not missing."""
    assert printed(WAKING, tmp_path) == [1, 0, 2, 4, 3]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks are counted by x86's pause")
def test_jobs_that_others_join_do_not_keep_a_helper_awake(tmp_path: Path) -> None:
    """However many there are, it looks 2000 times at most."""
    (looks,) = printed(LOOKING, tmp_path)
    assert 0 < looks <= 2000
