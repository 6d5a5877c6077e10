/* Clocks, sleeping, poll_oneoff without streams, random bytes, sched_yield. Ends with 0, or with 1 and the name
 * of the first call that did not do what it should. */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

#define CHECK(what, condition)                       \
    do {                                             \
        if (!(condition)) {                          \
            fprintf(stderr, "%s\n", what);           \
            exit(1);                                 \
        }                                            \
    } while (0)

int main(void) {
    struct timespec now, later;
    __wasi_timestamp_t time;
    CHECK("clock_gettime realtime", clock_gettime(CLOCK_REALTIME, &now) == 0 && now.tv_sec > 1000000000);
    CHECK("clock_getres", clock_getres(CLOCK_MONOTONIC, &now) == 0);
    for (unsigned id = 0; id < 4; id++) {
        __wasi_errno_t error = __wasi_clock_time_get(id, 1, &time);
        if (id >= 2 && error == __WASI_ERRNO_BADF) continue; /* Wasmtime has no clocks of processor time */
        CHECK("clock_time_get", error == 0);
        CHECK("clock_res_get", __wasi_clock_res_get(id, &time) == 0);
    }
    CHECK("clock_gettime monotonic", clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    struct timespec pause = {0, 20000000};
    CHECK("nanosleep", nanosleep(&pause, NULL) == 0);
    CHECK("usleep", usleep(1000) == 0);
    clock_gettime(CLOCK_MONOTONIC, &later);
    CHECK("slept", (later.tv_sec - now.tv_sec) * 1000000000LL + later.tv_nsec - now.tv_nsec >= 20000000);
    clock_gettime(CLOCK_REALTIME, &now);
    CHECK("clock_nanosleep to the past", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &now, NULL) == 0);
    now.tv_nsec += 10000000;
    if (now.tv_nsec >= 1000000000) { /* else it is no time, once in a hundred times */
        now.tv_nsec -= 1000000000;
        now.tv_sec++;
    }
    CHECK("clock_nanosleep absolute", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &now, NULL) == 0);
    CHECK("poll nothing", poll(NULL, 0, 5) == 0);
    time_t seconds = 0;
    CHECK("localtime", localtime(&seconds) && gmtime(&seconds));
    unsigned char bytes[4096] = {0}, sum = 0;
    CHECK("getentropy", getentropy(bytes, 256) == 0);
    CHECK("random_get", __wasi_random_get(bytes, sizeof bytes) == 0);
    for (unsigned i = 0; i < sizeof bytes; i++) sum |= bytes[i];
    CHECK("random", sum);
    CHECK("sched_yield", sched_yield() == 0);
    return 0;
}
