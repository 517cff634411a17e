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
    TRIES = 1000,      /* to take the pool's mutex before a thread sleeps for it: it is held for some nanoseconds,
                          but while helpers are started */
    GRACE = 50,        /* looks before a member takes tasks of others: a microsecond, so that results stay in the cache
                          of the core that reads them next */
    MOST_TASKS = 1024, /* of a step */
    MOST_STEPS = 512,  /* of a job */
    MOST_JOBS = 32     /* at a time; further callers work alone */
};

typedef void (*do_task_t)(const void *context, int64_t step, int64_t task);

/* Slots live for ever, so that a member that comes too late finds nothing to do rather than freed memory. `users`,
   `wanted` and `joined` belong to the pool's mutex, the rest is constant or atomic. */
typedef struct {
    int users;    /* members; the slot is free when there are none */
    int wanted;   /* helpers that may still join */
    int joined;
    int team;     /* members at most */
    int steps;
    do_task_t do_task;
    const void *context;
    int64_t done; /* tasks, of all steps together */
    int sleepers;
    pthread_cond_t over;      /* some step is */
    int tasks[MOST_STEPS];
    int claimed[MOST_TASKS];  /* for every task number the last step, counted from 1, in which it was claimed */
} Job;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t posted;
    unsigned posts;  /* jobs so far: what sleeping helpers look at, with the mutex */
    unsigned news;   /* the same, without: it changes once the mutex is free */
    int helpers, asleep;
    int needed;      /* helpers, by all callers together */
    Job jobs[MOST_JOBS];
} pool;

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Members come for the mutex at the same moments, when a job is posted and when it is over. To sleep for it costs tens of
   microseconds where a core has to be woken. */
static void lock_pool(void) {
    for (int i = 0; i < TRIES; ++i) {
        if (pthread_mutex_trylock(&pool.mutex) == 0) return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool.mutex);
}

static void unlock_pool(void) { pthread_mutex_unlock(&pool.mutex); }

static int is_over(Job *job, int64_t target) { return __atomic_load_n(&job->done, __ATOMIC_SEQ_CST) >= target; }

/* Look `spins` times whether `target` tasks are done. */
static int is_over_soon(Job *job, int64_t target, int spins) {
    for (; !is_over(job, target); pause_briefly())
        if (spins-- == 0) return 0;
    return 1;
}

static void await_end(Job *job, int64_t target) {
    if (is_over_soon(job, target, SPINS)) return;
    lock_pool();
    __atomic_add_fetch(&job->sleepers, 1, __ATOMIC_SEQ_CST);
    while (!is_over(job, target)) pthread_cond_wait(&job->over, &pool.mutex);
    __atomic_sub_fetch(&job->sleepers, 1, __ATOMIC_SEQ_CST);
    unlock_pool();
}

/* Note `count` more tasks as done; at `target` the step is over. */
static void finish(Job *job, int count, int64_t target) {
    if (__atomic_add_fetch(&job->done, count, __ATOMIC_SEQ_CST) == target
        && __atomic_load_n(&job->sleepers, __ATOMIC_SEQ_CST)) {
        lock_pool();
        pthread_cond_broadcast(&job->over);
        unlock_pool();
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

/* A job that wants helpers, joined, and the number there. The mutex is held. */
static Job *joined(int *me) {
    for (Job *job = pool.jobs; job < pool.jobs + MOST_JOBS; ++job)
        if (job->wanted) {
            --job->wanted;
            ++job->users;
            *me = ++job->joined;
            return job;
        }
    return NULL;
}

static void *help(void *unused) {
    (void)unused;
    begin_floats();  /* for ever: nothing but tasks runs here */
    lock_pool();
    for (;;) {
        int me;
        Job *job = joined(&me);
        if (job) {
            unlock_pool();
            take_part(job, me);
            lock_pool();
            --job->users;
            continue;
        }
        unsigned seen = pool.posts, heard = __atomic_load_n(&pool.news, __ATOMIC_ACQUIRE);
        unlock_pool();
        int spin = 0;
        for (; spin < SPINS && __atomic_load_n(&pool.news, __ATOMIC_ACQUIRE) == heard; ++spin) pause_briefly();
        lock_pool();
        if (spin < SPINS) continue;
        ++pool.asleep;
        while (pool.posts == seen) pthread_cond_wait(&pool.posted, &pool.mutex);
        --pool.asleep;
    }
    return NULL;
}

/* Start helpers until there are as many as are needed, or the system has no more. The mutex is held. */
static void start_helpers(void) {
    sigset_t all, before;
    pthread_attr_t attributes;
    if (pool.helpers >= pool.needed) return;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);  /* signals are for the threads of the program */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.helpers < pool.needed && pool.helpers < MOST_TASKS) {
        pthread_t helper;
        if (pthread_create(&helper, &attributes, help, NULL)) break;
        ++pool.helpers;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Do `steps` steps of tasks[step] tasks on at most `team` threads; 0 where there is no slot and nothing was done. */
static int share(do_task_t do_task, const void *context, int steps, const int *tasks, int team) {
    Job *job = pool.jobs;
    lock_pool();
    while (job < pool.jobs + MOST_JOBS && job->users) ++job;
    if (job == pool.jobs + MOST_JOBS) {
        unlock_pool();
        return 0;
    }
    int most = 0;
    for (int step = 0; step < steps; ++step) {
        job->tasks[step] = tasks[step];
        if (tasks[step] > most) most = tasks[step];
    }
    memset(job->claimed, 0, most * sizeof(int));
    job->users = 1;
    job->joined = 0;
    job->team = team < most ? team : most;
    job->wanted = job->team - 1;
    job->steps = steps;
    job->do_task = do_task;
    job->context = context;
    job->done = 0;
    int helpers = job->team - 1;
    pool.needed += helpers;
    ++pool.posts;
    start_helpers();
    for (int wake = pool.asleep < helpers ? pool.asleep : helpers; wake > 0; --wake) pthread_cond_signal(&pool.posted);
    unlock_pool();
    __atomic_add_fetch(&pool.news, 1, __ATOMIC_RELEASE);

    take_part(job, 0);

    lock_pool();
    job->wanted = 0;
    pool.needed -= helpers;
    --job->users;
    unlock_pool();
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
