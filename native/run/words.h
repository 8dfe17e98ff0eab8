/*
 * What sbridge-run says to its user: lines on the step's stderr.
 */
#ifndef WORDS_H
#define WORDS_H

/* Say a line; the same line twice in a row is said once. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Say why this ends; returns the exit code `code`. */
int fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* End because of errno. */
void die(const char *what) __attribute__((noreturn));

void die_of_memory(void) __attribute__((noreturn));

#endif
