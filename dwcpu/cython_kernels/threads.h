/* Threads for the driver: any calling thread posts a job, helpers that are free join in.

A job is a row of steps, a step a number of independent tasks. A step is over when all of its tasks are done, and only
then does the next one begin. Every member claims tasks, its own first, then those that nobody has begun: the caller
does everything itself where no helper comes. So a job never waits for a thread that has not started on a task, be it
that it sleeps or that another process has its core; an OpenMP region waits for all threads of its team.

Helpers are started when they are first needed and stay. A free helper looks for jobs for some tens of microseconds, then
sleeps; so does a member that waits for the end of a step, which leaves its core to whoever has work. Several callers
have jobs of their own at a time. After fork the child begins anew, without helpers. */

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>

#include "floats.h"

enum {
    SPINS = 2000,      /* looks before a thread sleeps: tens of microseconds, as long as a short step */
    GRACE = 50,        /* looks before a member takes tasks of others: a microsecond, so that results stay in the cache
                          of the core that reads them next */
    PATIENCE = 16,     /* small jobs with too few helpers, of which one wakes some for the next */
    MOST_TASKS = 1024, /* of a step */
    MOST_STEPS = 512,  /* of a job */
    MOST_JOBS = 32,    /* at a time; further callers work alone */
    LINE = 64          /* bytes that cores exchange */
};

typedef void (*do_task_t)(const void *context, int64_t step, int64_t task);

/* Slots live for ever, so that a member that comes too late finds nothing to do rather than freed memory. `state` is
   MEMBER for each member, plus the number of helpers that may still join; 0 where the slot is free. What the caller
   writes before it lets helpers join, whose number is the last thing to be written, is constant until all have gone.
   What is written at the same time lies in lines of its own: each line that passes from core to core takes 0.1 us. */
typedef struct {
    uint64_t state;
    int team;     /* members at most */
    int steps;
    do_task_t do_task;
    const void *context;
    int tasks[MOST_STEPS];
    int64_t done __attribute__((aligned(LINE)));  /* tasks, of all steps together */
    int sleepers;
    pthread_cond_t over;  /* some step is */
    int claimed[MOST_TASKS] __attribute__((aligned(LINE)));  /* for every task number the last step, counted from 1, in
                                                                which it was claimed */
} Job;

#define MEMBER ((uint64_t)1 << 32)

/* The mutex is for threads that go to sleep and for those that wake them; threads that are awake do without. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t posted;
    int asleep;    /* helpers; it changes with the mutex, before the helper looks at `news` for the last time */
    int woken;     /* helpers no longer counted as asleep, which do not yet know; it changes with the mutex */
    int helpers;   /* it changes with the mutex */
    int needed;    /* helpers, by all callers together */
    unsigned alone; /* small jobs that found too few helpers awake */
    unsigned news __attribute__((aligned(LINE)));  /* jobs so far; changes when there is one to join, before the caller
                                                      looks at `asleep` */
    Job jobs[MOST_JOBS];
} pool;

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int is_over(Job *job, int64_t target) { return __atomic_load_n(&job->done, __ATOMIC_SEQ_CST) >= target; }

/* Look `spins` times whether `target` tasks are done. */
static int is_over_soon(Job *job, int64_t target, int spins) {
    for (; !is_over(job, target); pause_briefly())
        if (spins-- == 0) return 0;
    return 1;
}

static void await_end(Job *job, int64_t target) {
    if (is_over_soon(job, target, SPINS)) return;
    pthread_mutex_lock(&pool.mutex);
    __atomic_add_fetch(&job->sleepers, 1, __ATOMIC_SEQ_CST);
    while (!is_over(job, target)) pthread_cond_wait(&job->over, &pool.mutex);
    __atomic_sub_fetch(&job->sleepers, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool.mutex);
}

/* Note `count` more tasks as done; at `target` the step is over. */
static void finish(Job *job, int count, int64_t target) {
    if (__atomic_add_fetch(&job->done, count, __ATOMIC_SEQ_CST) == target
        && __atomic_load_n(&job->sleepers, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&pool.mutex);
        pthread_cond_broadcast(&job->over);
        pthread_mutex_unlock(&pool.mutex);
    }
}

/* Do the tasks me, me + stride, ... that nobody has claimed; how many. What a task needs may be looked at only once it
   is claimed: before that the caller may have gone. */
static int do_unclaimed(Job *job, int step, int me, int stride) {
    int count = 0;
    for (int task = me; task < job->tasks[step]; task += stride) {
        int last = __atomic_load_n(&job->claimed[task], __ATOMIC_RELAXED);
        if (last <= step && __atomic_compare_exchange_n(&job->claimed[task], &last, step + 1, 0, __ATOMIC_ACQ_REL,
                                                        __ATOMIC_RELAXED)) {
            job->do_task(job->context, step, task);
            ++count;
        }
    }
    return count;
}

/* Take part from the first step that is not over. Helpers do not wait for the end of the last. */
static void take_part(Job *job, int me) {
    int64_t target = 0;
    for (int step = 0; step < job->steps; ++step) {
        target += job->tasks[step];
        if (is_over(job, target)) continue;
        int count = do_unclaimed(job, step, me, job->team);
        if (count == 0 && me && is_over_soon(job, target, GRACE)) continue;
        count += do_unclaimed(job, step, 0, 1);
        if (count) finish(job, count, target);
        if (me == 0 || step + 1 < job->steps) await_end(job, target);
    }
}

/* A job that wants helpers, joined, and the number there; NULL where there is none. */
static Job *joined(int *me) {
    for (Job *job = pool.jobs; job < pool.jobs + MOST_JOBS; ++job) {
        uint64_t state = __atomic_load_n(&job->state, __ATOMIC_ACQUIRE);
        while (state % MEMBER)
            if (__atomic_compare_exchange_n(&job->state, &state, state + MEMBER - 1, 0, __ATOMIC_ACQUIRE,
                                            __ATOMIC_ACQUIRE)) {
                *me = job->team - (int)(state % MEMBER);
                return job;
            }
    }
    return NULL;
}

static void *help(void *unused) {
    (void)unused;
    begin_floats();  /* for ever: nothing but tasks runs here */
    for (int me, spin = 0;;) {
        unsigned heard = __atomic_load_n(&pool.news, __ATOMIC_ACQUIRE);  /* before it looks for jobs */
        Job *job = joined(&me);
        if (job) {
            take_part(job, me);
            __atomic_sub_fetch(&job->state, MEMBER, __ATOMIC_RELEASE);
            spin = 0;
            continue;
        }
        /* jobs that others were quicker to join do not keep it awake */
        while (spin++ < SPINS && __atomic_load_n(&pool.news, __ATOMIC_ACQUIRE) == heard) pause_briefly();
        if (spin <= SPINS) continue;
        pthread_mutex_lock(&pool.mutex);
        __atomic_add_fetch(&pool.asleep, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&pool.news, __ATOMIC_SEQ_CST) == heard) {
            while (pool.woken == 0) pthread_cond_wait(&pool.posted, &pool.mutex);
            --pool.woken;
            spin = 0;
        } else __atomic_sub_fetch(&pool.asleep, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&pool.mutex);
    }
    return NULL;
}

/* Start helpers until there are as many as are needed, or the system has no more. */
static void start_helpers(void) {
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_mutex_lock(&pool.mutex);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);  /* signals are for the threads of the program */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.helpers < __atomic_load_n(&pool.needed, __ATOMIC_RELAXED) && pool.helpers < MOST_TASKS) {
        pthread_t helper;
        if (pthread_create(&helper, &attributes, help, NULL)) break;
        __atomic_add_fetch(&pool.helpers, 1, __ATOMIC_RELAXED);
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_unlock(&pool.mutex);
}

/* Wake as many helpers as it takes for `needed` to be awake. They count as awake from now on: until they run, many a
   short job may come that would wake others. */
static void wake_helpers(int needed) {
    if (__atomic_load_n(&pool.asleep, __ATOMIC_SEQ_CST) == 0) return;
    pthread_mutex_lock(&pool.mutex);
    for (; pool.asleep > 0 && pool.helpers - pool.asleep < needed; ++pool.woken) {
        __atomic_sub_fetch(&pool.asleep, 1, __ATOMIC_SEQ_CST);
        pthread_cond_signal(&pool.posted);
    }
    pthread_mutex_unlock(&pool.mutex);
}

/* A free slot, taken; NULL where there is none. */
static Job *free_job(void) {
    for (Job *job = pool.jobs; job < pool.jobs + MOST_JOBS; ++job) {
        uint64_t none = 0;
        if (__atomic_load_n(&job->state, __ATOMIC_RELAXED) == 0
            && __atomic_compare_exchange_n(&job->state, &none, MEMBER, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return job;
    }
    return NULL;
}

/* Do `steps` steps of tasks[step] tasks on at most `team` threads; 0 where nothing was done, since there is no slot, or
   since nobody else is awake for a job that is not `waking`. */
static int share(do_task_t do_task, const void *context, int steps, const int *tasks, int team, int waking) {
    int most = 0;
    for (int step = 0; step < steps; ++step)
        if (tasks[step] > most) most = tasks[step];
    if (team > most) team = most;
    int awake = __atomic_load_n(&pool.helpers, __ATOMIC_RELAXED) - __atomic_load_n(&pool.asleep, __ATOMIC_RELAXED);
    if (!waking && awake < team - 1)
        waking = __atomic_add_fetch(&pool.alone, 1, __ATOMIC_RELAXED) % PATIENCE == 0;
    if (!waking && awake == 0) return 0;
    Job *job = free_job();
    if (job == NULL) return 0;
    memcpy(job->tasks, tasks, steps * sizeof(int));
    memset(job->claimed, 0, most * sizeof(int));
    job->team = team;
    job->steps = steps;
    job->do_task = do_task;
    job->context = context;
    job->done = 0;
    int helpers = team - 1;
    __atomic_store_n(&job->state, MEMBER + helpers, __ATOMIC_RELEASE);
    __atomic_add_fetch(&pool.news, 1, __ATOMIC_SEQ_CST);
    int needed = __atomic_add_fetch(&pool.needed, helpers, __ATOMIC_RELAXED);
    if (waking) {
        wake_helpers(needed);
        if (needed > __atomic_load_n(&pool.helpers, __ATOMIC_RELAXED)) start_helpers();
    }

    take_part(job, 0);

    __atomic_sub_fetch(&pool.needed, helpers, __ATOMIC_RELAXED);
    uint64_t state = __atomic_load_n(&job->state, __ATOMIC_RELAXED);  /* nobody joins any more, and the caller leaves */
    while (!__atomic_compare_exchange_n(&job->state, &state, (state / MEMBER - 1) * MEMBER, 0, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED))
        continue;
    return 1;
}

/* No helpers and no jobs: the state of a process that has just begun. */
static void begin_anew(void) {
    memset(&pool, 0, sizeof pool);
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.posted, NULL);
    for (int job = 0; job < MOST_JOBS; ++job) pthread_cond_init(&pool.jobs[job].over, NULL);
}

static void set_up_once(void) {
    begin_anew();
    pthread_atfork(NULL, NULL, begin_anew);
}

static void set_up(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_up_once);
}
