/*
 * Times in milliseconds.
 */
#ifndef CLOCK_H
#define CLOCK_H

#include <time.h>

/* Since some moment before this process began. */
static inline long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline void pause_ms(long time_ms)
{
    nanosleep(&(struct timespec){time_ms / 1000, time_ms % 1000 * 1000000}, NULL);
}

#endif
