#define _GNU_SOURCE
#include "words.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char NAME[] = "sbridge: ";

/* The line, in one write, so that lines of many tasks do not mix; stderr may be gone. */
static char *compose(const char *format, va_list arguments)
{
    char *text, *line;

    if (vasprintf(&text, format, arguments) < 0 || asprintf(&line, "%s%s\n", NAME, text) < 0)
        die_of_memory();
    free(text);
    return line;
}

static void print(const char *line)
{
    size_t left = strlen(line);

    while (left > 0) {
        ssize_t written = write(STDERR_FILENO, line, left);

        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return;
        line += written;
        left -= written;
    }
}

void say(const char *format, ...)
{
    static char *said;
    va_list arguments;
    char *line;

    va_start(arguments, format);
    line = compose(format, arguments);
    va_end(arguments);
    if ((said != NULL && strcmp(said, line) == 0) || strlen(line) <= sizeof NAME) {
        free(line); /* nothing, or nothing new */
        return;
    }
    print(line);
    free(said);
    said = line;
}

int fail(int code, const char *format, ...)
{
    va_list arguments;
    char *line;

    va_start(arguments, format);
    line = compose(format, arguments);
    va_end(arguments);
    print(line);
    free(line);
    return code;
}

void die_of_memory(void)
{
    print("sbridge: no memory is left for sbridge-run; ask for more with --mem\n");
    _exit(1);
}

void die(const char *what)
{
    _exit(fail(1, "%s: %s", what, strerror(errno)));
}
