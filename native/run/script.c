#define _GNU_SOURCE
#include "script.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "words.h"

static const char MARK[] = "--task=";
static const char BATCH_SCRIPT[] = "slurm_script";
static const char BLANKS[] = " \t";

static void *allocated(size_t bytes)
{
    void *place = malloc(bytes);

    if (place == NULL)
        die_of_memory();
    return place;
}

static int digit(char hexadecimal)
{
    static const char DIGITS[] = "0123456789ABCDEF";
    const char *place = hexadecimal ? strchr(DIGITS, hexadecimal) : NULL;

    return place ? (int)(place - DIGITS) : -1;
}

/* The directory that the mark names, in which =XX stands for other characters; NULL: no mark. */
static char *directory_of(const char *word)
{
    char *directory, *end;

    if (strncmp(word, MARK, strlen(MARK)) != 0)
        return NULL;
    word += strlen(MARK);
    directory = end = allocated(strlen(word) + 1);
    for (; *word; word++) {
        *end = *word;
        if (*word == '=') {
            int high = digit(word[1]), low = high < 0 ? -1 : digit(word[2]);

            if (low < 0) {
                free(directory);
                return NULL;
            }
            *end = (char)(high << 4 | low);
            word += 2;
        }
        end++;
    }
    *end = '\0';
    return directory;
}

/* Split "/bin/bash -l" as the kernel does: a program and at most one argument. */
static int split(const char *line, char **argv)
{
    char *program = strdup(line + strspn(line, BLANKS)), *option;

    if (program == NULL)
        die_of_memory();
    for (char *end = program + strlen(program); end > program && strchr(BLANKS, end[-1]); end--)
        end[-1] = '\0';
    argv[0] = program;
    option = program + strcspn(program, BLANKS);
    if (*option == '\0')
        return 1;
    *option++ = '\0';
    argv[1] = option + strspn(option, BLANKS);
    return 2;
}

bool command_of(int argc, char **argv, struct command *command)
{
    if (argc < 2)
        return false;
    command->directory = directory_of(argv[1]);
    command->is_task = command->directory != NULL;
    if (command->is_task) {
        command->argv = argv + 2;
        command->count = argc - 2;
        return command->count > 0;
    }
    command->argv = allocated((argc + 2) * sizeof *argv);
    command->count = split(argv[1], command->argv);
    memcpy(command->argv + command->count, argv + 2, (argc - 1) * sizeof *argv); /* and its NULL */
    command->count += argc - 2;
    return true;
}

int script_open(const struct command *command)
{
    if (command->is_task)
        return -1;
    for (int i = 1; i < command->count && i <= 2; i++) {
        const char *slash = strrchr(command->argv[i], '/');

        if (strcmp(slash ? slash + 1 : command->argv[i], BATCH_SCRIPT) == 0)
            return open(command->argv[i], O_RDONLY | O_CLOEXEC);
    }
    return -1;
}

bool script_has_command(int script)
{
    static char piece[1 << 16];
    bool is_in_comment = false;
    ssize_t got;
    off_t place = 0;

    for (; (got = pread(script, piece, sizeof piece, place)) > 0; place += got)
        for (ssize_t i = 0; i < got; i++) {
            if (piece[i] == '\n')
                is_in_comment = false;
            else if (is_in_comment || memchr(" \t\r\v\f", piece[i], 5) != NULL)
                continue;
            else if (piece[i] == '#')
                is_in_comment = true;
            else
                return true;
        }
    return got < 0; /* what cannot be read may hold one */
}
