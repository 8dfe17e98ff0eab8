/*
 * Whom of the script's process group a signal of this process is for.
 *
 * The script gets it in any case. If the witness got it as well, it was for the whole group. Who
 * signals a group reaches the witness first: the kernel begins with the youngest, slurmstepd
 * without cgroups with children. A sender of another kind may be late, and the script does not wait.
 */
#ifndef SIGNALS_H
#define SIGNALS_H

#include "witness.h"

enum { MOST_SIGNALS = 256 };

/* How often something happened lately. */
struct tally {
    unsigned count;
    long last_ms;
};

struct signals {
    struct witness witness;
    int own;    /* readable when this process got signals; see catch_signals() */
    int keeper; /* the connection to the one who holds the script */
    struct tally seen[MOST_SIGNALS];  /* by the witness, and by this process not yet */
    unsigned known[MOST_SIGNALS];     /* to be for the group: the witness is going to see it */
    struct tally alone[MOST_SIGNALS]; /* passed on for the script alone */
};

/* Pass on all signals that this process got. */
void signals_pass_on(struct signals *signals);

/* Have those of the group get what the script has already, if the witness got it now. */
void signals_hear_witness(struct signals *signals);

#endif
