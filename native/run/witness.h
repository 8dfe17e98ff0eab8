/*
 * A child that does nothing but see signals.
 *
 * Slurm signals the script's process alone (`scancel -b`), or its process group (`scancel -f`), or
 * all descendants (proctrack/linuxproc). In the last two cases the witness gets the signal too,
 * which is the only way to tell.
 */
#ifndef WITNESS_H
#define WITNESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct witness {
    pid_t pid; /* 0: there is none */
    int reports;
    unsigned seen[UINT8_MAX + 1]; /* how often each signal was seen and not asked for yet */
};

/* Fork it; the child keeps nothing open: who reads the step's files must see their end. */
void witness_start(struct witness *witness);

/* Wait until it sees signals, and forget those before.
 *
 * On a busy node it may not have run yet; and what this process let pass, as it does SIGWINCH, is
 * never asked for.
 */
void witness_settle(struct witness *witness);

struct signal {
    int number; /* 0: none */
    pid_t sender; /* 0: the kernel */
};

/* Whether the witness got this signal as well, now or soon.
 *
 * slurmstepd signals one process after the other, so this waits for some milliseconds; longer while
 * the sender or the witness are about to run, and do not get to.
 */
bool witness_saw(struct witness *witness, struct signal signal);

/* End it; twice is fine. */
void witness_dismiss(struct witness *witness);

/* Have every signal but SIGCHLD reported on the returned descriptor (signalfd(2)) from now on.
 *
 * Those that were blocked, too: the script has them blocked itself.
 */
int catch_signals(void);

/* Read the next signal. */
struct signal read_signal(int signals);

#endif
