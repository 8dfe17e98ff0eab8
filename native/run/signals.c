#define _GNU_SOURCE
#include "signals.h"

#include <stdbool.h>

#include "clock.h"
#include "wire.h"

enum {
    ATTEST_MS = 5, /* for which a signal is held back until the witness has it, too */
    LATE_MS = 500, /* after which what the witness sees is another signal */
};

static void count(struct tally *tally)
{
    if (now_ms() > tally->last_ms + LATE_MS)
        tally->count = 0;
    tally->count++;
    tally->last_ms = now_ms();
}

static bool take(struct tally *tally)
{
    if (now_ms() > tally->last_ms + LATE_MS)
        tally->count = 0;
    if (tally->count == 0)
        return false;
    tally->count--;
    return true;
}

static void tell(const struct signals *signals, int number, const char *whom)
{
    struct message told = wire_begin("signal");

    wire_add_number(&told, "number", number);
    wire_add_text(&told, "to", whom);
    /* If it fails, the script has ended; the keeper's last word is still to be read. */
    wire_send(signals->keeper, &told, NULL, 0);
    wire_drop(&told);
}

/* Hear the witness; the signal that is `awaited` is left to who waits for it. */
static void hear(struct signals *signals, int awaited, int wait_ms)
{
    uint8_t numbers[WITNESS_MOST];
    int got = witness_read(&signals->witness, numbers, wait_ms);

    for (int i = 0; i < got; i++)
        if (numbers[i] != awaited && take(&signals->alone[numbers[i]]))
            tell(signals, numbers[i], "others");
        else
            count(&signals->seen[numbers[i]]);
}

void signals_hear_witness(struct signals *signals)
{
    hear(signals, 0, 0);
}

static void pass_on(struct signals *signals, int number)
{
    long end_ms = now_ms() + ATTEST_MS;
    bool is_for_all = take(&signals->seen[number]);

    while (!is_for_all && signals->witness.pid != 0 && now_ms() < end_ms) {
        hear(signals, number, (int)(end_ms - now_ms()));
        is_for_all = take(&signals->seen[number]);
    }
    tell(signals, number, is_for_all ? "group" : "script");
    if (!is_for_all)
        count(&signals->alone[number]);
}

void signals_pass_on(struct signals *signals)
{
    int number;

    while ((number = read_signal(signals->own)) != 0)
        pass_on(signals, number);
}
