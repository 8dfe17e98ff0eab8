/*
 * The messages between sbridge-run, the agent and the keeper: bridge/wire.py tells their form.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>

/* A message in the making, or one that came: its fields, joined by NUL. */
struct message {
    char *bytes; /* with one NUL more at the end */
    size_t length;
    int descriptor; /* that came with it, or -1 */
};

/* No message; it has no fields, and may be dropped. */
struct message wire_none(void);

/* Begin a message of this kind; wire_drop frees it. */
struct message wire_begin(const char *kind);

/* Add `key=value`; the value is `length` bytes without NUL. */
void wire_add(struct message *message, const char *key, const char *value, size_t length);
void wire_add_text(struct message *message, const char *key, const char *value);
void wire_add_number(struct message *message, const char *key, long value);

/* Send it with these descriptors; false, and errno, when the peer is gone. */
bool wire_send(int connection, const struct message *message, const int *descriptors, int count);

/* Receive the next one; false when the peer closed the connection, or sent no message. */
bool wire_receive(int connection, struct message *message);

void wire_drop(struct message *message);

bool wire_is(const struct message *message, const char *kind);

/* The value of the first field `key` behind the field `after` (NULL: of all), NULL for none. */
const char *wire_next(const struct message *message, const char *key, const char *after);

/* The first value of `key`; "" for none. */
const char *wire_first(const struct message *message, const char *key);

#endif
