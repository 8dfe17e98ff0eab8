/*
 * A child that does nothing but see signals.
 *
 * Slurm signals the script's process alone (`scancel -b`), or its process group (`scancel -f`), or
 * all descendants (proctrack/linuxproc). In the last two cases the witness gets the signal too,
 * which is the only way to tell.
 */
#ifndef WITNESS_H
#define WITNESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { WITNESS_MOST = 64 };

struct witness {
    pid_t pid;               /* 0: there is none */
    int reports;             /* readable when it has seen signals */
    atomic_bool *is_telling; /* shared with it: whether it has taken signals and not told yet */
};

/* Fork it; the child keeps nothing open: who reads the step's files must see their end. */
void witness_start(struct witness *witness);

/* Wait until it sees signals, and forget those before.
 *
 * On a busy node it may not have run yet; and what this process let pass, as it does SIGWINCH, is
 * never asked for.
 */
void witness_settle(const struct witness *witness);

/* Read the numbers of signals that it saw, WITNESS_MOST at most; waits for the first so long. */
int witness_read(const struct witness *witness, uint8_t *numbers, int wait_ms);

/* Whether it got a signal that it has not taken yet: on a busy node it may not run for long. */
bool witness_is_to_see(const struct witness *witness, int number);

/* Whether what it took may not be readable yet. */
bool witness_is_telling(const struct witness *witness);

/* End it; twice is fine. */
void witness_dismiss(struct witness *witness);

/* Have every signal reported on the returned descriptor (signalfd(2)) from now on.
 *
 * Those that were blocked, too: the script has them blocked itself.
 */
int catch_signals(void);

/* Read the next signal's number; 0 for none. That a child ended or stopped is no signal. */
int read_signal(int signals);

#endif
