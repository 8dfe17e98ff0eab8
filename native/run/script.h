/*
 * What the command line of sbridge-run asks for: a task, or a batch script and its interpreter.
 *
 * sbridge-run --task=<directory> PROGRAM [ARGUMENT...]     bridge/task.py writes this
 * sbridge-run INTERPRETER [SCRIPT [ARGUMENT...]]           the kernel, for a #! line
 */
#ifndef SCRIPT_H
#define SCRIPT_H

#include <stdbool.h>

struct command {
    char **argv;
    int count;
    bool is_task;
    char *directory; /* of a task: a directory of the sandbox */
};

/* Read the command line; false when it asks for nothing. */
bool command_of(int argc, char **argv, struct command *command);

/* Open the batch script, if one is among the arguments of its interpreter; -1: none. */
int script_open(const struct command *command);

/* Whether the open script has a line that is neither blank nor a comment. */
bool script_has_command(int script);

#endif
