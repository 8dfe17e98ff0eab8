/*
 * What stands in a sandbox under the names of Slurm's commands: it has /bin/sh run the script of
 * its name (bridge/agent/shim.py), for what that cannot do for itself.
 *
 * It says so where an image has no /bin/sh: of a script the kernel says only that there is no such
 * file. And a shell cannot catch what was ignored when it began, as SIGINT and SIGQUIT are for
 * what another shell put into the background; the commands that wait for signals have them do what
 * they do by default. So has every command SIGPIPE, by which the node ends what the script waits
 * for, the one end of which no shell says a word; that it was ignored, as by Python for what it has
 * a shell run, is said in the environment.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#ifndef SCRIPTS
#define SCRIPTS "/sbridge/shim" /* bridge.agent.shim.SCRIPTS */
#endif
#define SHELL "/bin/sh"
#define IGNORES_PIPE "SBRIDGE_IGNORES_PIPE" /* bridge.slurm.hidden.IGNORES_PIPE */

enum { NOT_STARTED = 126, NOT_THERE = 127 }; /* as a shell says it of a command */

/*
 * Of all links to this program, the one that was executed: whatever the caller says in argv[0], and
 * by whichever symbolic link or #! line it came here. Valid until the next call.
 */
static const char *own_name(void)
{
    static char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    char *name;

    if (length >= 0)
        path[length] = '\0';
    else /* no /proc */
        snprintf(path, sizeof path, "%s", (const char *)getauxval(AT_EXECFN));
    name = strrchr(path, '/');
    name = name == NULL ? path : name + 1;
    name[strcspn(name, " ")] = '\0'; /* "srun (deleted)": the agent has put a newer one there */
    return name;
}

/* Have signals that the command itself waits for do what they do by default. */
static void heed_signals(const char *name)
{
    static const int keys[] = {SIGINT, SIGQUIT, 0};
    static const int of_srun[] = {SIGINT, SIGQUIT, SIGHUP, SIGTERM, SIGALRM, SIGUSR1, SIGUSR2, 0};
    const int *number = strcmp(name, "srun") == 0      ? of_srun
                        : strcmp(name, "sattach") == 0 ? keys
                                                       : NULL;

    for (; number != NULL && *number != 0; number++)
        signal(*number, SIG_DFL);
}

/* The command on the node ignores it all the same, as that variable says. */
static void let_pipe_kill(void)
{
    sigset_t pipe;

    unsetenv(IGNORES_PIPE);
    if (signal(SIGPIPE, SIG_DFL) == SIG_IGN)
        setenv(IGNORES_PIPE, "1", 1);
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigprocmask(SIG_UNBLOCK, &pipe, NULL);
}

static int fail(const char *name)
{
    if (errno == ENOENT || errno == ENOTDIR) {
        dprintf(STDERR_FILENO, "sbridge: %s needs a /bin/sh inside, and this image has none\n", name);
        return NOT_THERE;
    }
    dprintf(STDERR_FILENO, "sbridge: %s: " SHELL ": %s\n", name, strerror(errno));
    return NOT_STARTED;
}

int main(int argc, char **argv)
{
    const char *name = own_name();
    char script[sizeof SCRIPTS + 1 + PATH_MAX];
    char **arguments = calloc(argc + 3, sizeof *arguments);

    if (arguments == NULL)
        return fail(name);
    snprintf(script, sizeof script, "%s/%s", SCRIPTS, name);
    arguments[0] = SHELL;
    arguments[1] = script;
    if (argc > 1)
        memcpy(arguments + 2, argv + 1, (argc - 1) * sizeof *arguments);
    heed_signals(name);
    let_pipe_kill();
    execv(SHELL, arguments);
    return fail(name);
}
