#define _GNU_SOURCE
#include "signals.h"

#include <stdbool.h>

#include "clock.h"
#include "wire.h"

enum {
    TELL_MS = 5, /* for which the witness is let tell what it sees */
    LATE_MS = 500, /* after which what the witness sees is another signal */
    FIRST_QUEUED = 32, /* real-time signals: two are not one for who has not seen the first yet */
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
        if (signals->known[numbers[i]] > 0)
            signals->known[numbers[i]]--;
        else if (numbers[i] != awaited && take(&signals->alone[numbers[i]]))
            tell(signals, numbers[i], "others");
        else
            count(&signals->seen[numbers[i]]);
}

void signals_hear_witness(struct signals *signals)
{
    hear(signals, 0, 0);
}

/* Whether the witness has it too. What it has is to be seen, then being told, then readable. */
static bool is_for_group(struct signals *signals, int number)
{
    unsigned *known = &signals->known[number];
    long end_ms = now_ms() + TELL_MS;
    bool is_coming;

    while (*known > 0 && now_ms() < end_ms)
        hear(signals, number, 1);
    is_coming = (*known == 0 || number >= FIRST_QUEUED) && /* else it is the earlier one */
                witness_is_to_see(&signals->witness, number);
    hear(signals, number, 0);
    while (signals->seen[number].count == 0 && now_ms() < end_ms &&
           (is_coming || witness_is_telling(&signals->witness)))
        hear(signals, number, 1);
    hear(signals, number, 0);
    if (take(&signals->seen[number]))
        return true;
    if (is_coming)
        ++*known;
    return is_coming;
}

static void pass_on(struct signals *signals, int number)
{
    if (is_for_group(signals, number)) {
        tell(signals, number, "group");
        return;
    }
    tell(signals, number, "script");
    count(&signals->alone[number]);
}

void signals_pass_on(struct signals *signals)
{
    int number;

    while ((number = read_signal(signals->own)) != 0)
        pass_on(signals, number);
}
