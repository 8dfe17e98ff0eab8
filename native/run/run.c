/*
 * sbridge-run: the interpreter of a job script that runs in a sandbox.
 *
 * Runs as the job's user, in the job's step, without credentials. It hands its own open files to
 * the node's agent and stays as the process that Slurm knows: it passes signals on and ends as the
 * script ended. Every task of a step starts it, so it is no Python program; what it needs at
 * run time stands in it (statically linked: no variable of the user's decides what it loads).
 *
 * 1. connecting   no agent answers: say so and try again
 * 2. waiting      the agent says why there is no sandbox yet; a signal ends this process
 * 3. entered      the keeper holds the script; signals are passed on
 * 4. ended        exit, or die of the signal, as the script did
 * A job that needs no sandbox (runtime `host`) leaves 2 by becoming its interpreter.
 *
 * Compiled with RUN_DIR, agent.run_dir; RUNNER, its own path; and STAND_IN, that of
 * sbridge-stand-in.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "script.h"
#include "signals.h"
#include "wire.h"
#include "words.h"

#ifndef AGENT_TIMEOUT_MS
#define AGENT_TIMEOUT_MS 300000
#endif
#ifndef RETRY_MS
#define RETRY_MS 250
#endif
#ifndef SEE_OFF_MS
#define SEE_OFF_MS 1000
#endif

enum {
    FATAL = 1,
    MOST_OPEN = 62, /* a message holds 64 descriptors, and two are the agent's */
    WHY_TIMEOUT_S = 5,
};

static struct {
    struct command command;
    struct sockaddr_un address;
    struct message request;
    int descriptors[MOST_OPEN + 1]; /* the step's own, and the script */
    int count;
    bool ignores_pipe; /* it was started with SIGPIPE ignored */
    struct signals signals;
    long deadline_ms; /* later once an agent says something */
} step;

static char *working_directory(void)
{
    char *directory = getcwd(NULL, 0);

    return directory ? directory : "/";
}

/* Keep 0, 1 and 2 from being taken by what is opened here, if the step has them closed. */
static void fill_stdio(void)
{
    int number;

    do
        number = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (number >= 0 && number <= STDERR_FILENO);
    if (number >= 0)
        close(number);
}

static int by_number(const void *one, const void *other)
{
    return *(const int *)one - *(const int *)other;
}

/* Find the files that were open when this began; returns how many, which may be too many. */
static int find_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    int count = 0;

    if (folder == NULL)
        die("cannot see which files this step has open");
    while ((entry = readdir(folder)) != NULL) {
        int number = atoi(entry->d_name);
        int flags = entry->d_name[0] == '.' ? -1 : fcntl(number, F_GETFD);

        if (flags >= 0 && !(flags & FD_CLOEXEC) && number != dirfd(folder)) {
            if (count < MOST_OPEN)
                step.descriptors[count] = number;
            count++;
        }
    }
    closedir(folder);
    qsort(step.descriptors, count < MOST_OPEN ? count : MOST_OPEN, sizeof(int), by_number);
    return count;
}

/* Compose the message that asks to enter, before there is an agent to wait for it. */
static void ask(void)
{
    int script = script_open(&step.command);
    char *named = step.command.directory;
    char *here = named && *named ? named : working_directory();

    step.request = wire_begin("enter");
    for (int i = 0; i < step.count; i++)
        wire_add_number(&step.request, "fd", step.descriptors[i]);
    for (int i = 0; i < step.command.count; i++)
        wire_add_text(&step.request, "arg", step.command.argv[i]);
    for (char **pair = environ; *pair; pair++)
        if (**pair != '=' && strchr(*pair, '=')) /* what has a name */
            wire_add_text(&step.request, "env", *pair);
    wire_add_text(&step.request, "cwd", here);
    wire_add_text(&step.request, "runner", RUNNER);
    if (step.ignores_pipe)
        wire_add_number(&step.request, "ignored", SIGPIPE);
    if (step.command.is_task)
        wire_add_text(&step.request, "task", "1");
    if (script >= 0) {
        step.descriptors[step.count++] = script;
        wire_add_text(&step.request, "script", "1");
        if (!script_has_command(script))
            wire_add_text(&step.request, "idle", "1");
    }
}

/* Connect to the agent; -1 when there was none for too long. */
static int connect_to_agent(void)
{
    while (now_ms() < step.deadline_ms) {
        int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (connection < 0)
            die("cannot reach the sbridge agent of this node");
        if (connect(connection, (struct sockaddr *)&step.address, sizeof step.address) == 0)
            return connection;
        close(connection);
        say("waiting for the sbridge agent of this node");
        pause_ms(RETRY_MS);
    }
    return -1;
}

/* Receive the agent's decision; false when it went away before. */
static bool wait_for_answer(int connection, struct message *answer)
{
    while (wire_receive(connection, answer)) {
        step.deadline_ms = now_ms() + AGENT_TIMEOUT_MS;
        if (!wire_is(answer, "waiting"))
            return true;
        say("%s", wire_first(answer, "text"));
        wire_drop(answer);
    }
    return false;
}

/* Ask to enter, and wait; false, and an empty answer, when the agent went away before. */
static bool converse(int connection, struct message *answer)
{
    *answer = wire_none();
    if (wire_send(connection, &step.request, step.descriptors, step.count))
        witness_start(&step.signals.witness); /* while the agent works */
    else if (errno != EPIPE && errno != ECONNRESET)
        return false;
    return wait_for_answer(connection, answer); /* it may say why it would not listen */
}

static char **with_pair(char **environment, const char *pair)
{
    size_t name = strcspn(pair, "=") + 1, count = 0;
    bool is_there = false;
    char **more;

    for (; environment[count]; count++)
        if (strncmp(environment[count], pair, name) == 0) {
            environment[count] = (char *)pair; /* each of several: who knows which one counts */
            is_there = true;
        }
    if (is_there)
        return environment;
    more = malloc((count + 2) * sizeof *more);
    if (more == NULL)
        die_of_memory();
    memcpy(more, environment, count * sizeof *more);
    more[count] = (char *)pair;
    more[count + 1] = NULL;
    return more;
}

static bool is_ignored(int number)
{
    struct sigaction now;

    return sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

/* Become the interpreter, or what runs `file` in the place of a script without a command. */
static int become(const struct message *answer)
{
    const char *file = wire_first(answer, "file"), *directory = wire_first(answer, "cwd");
    char **argv = step.command.argv, ignored[32];

    for (const char *pair = NULL; (pair = wire_next(answer, "env", pair));)
        environ = with_pair(environ, pair);
    if (*directory && chdir(directory) != 0) {
        const char *reason = strerror(errno);

        say("working directory %s: %s; using %s", directory, reason, working_directory());
    }
    if (*file) {
        snprintf(ignored, sizeof ignored, "%s %s", step.ignores_pipe ? "SIGPIPE" : "",
                 is_ignored(SIGXFSZ) ? "SIGXFSZ" : "");
        argv = calloc(step.command.count + 4, sizeof *argv);
        if (argv == NULL)
            die_of_memory();
        argv[0] = STAND_IN;
        argv[1] = ignored;
        argv[2] = (char *)file;
        memcpy(argv + 3, step.command.argv, step.command.count * sizeof *argv);
    }
    if (!step.ignores_pipe)
        signal(SIGPIPE, SIG_DFL);
    execve(argv[0], argv, environ);
    /* As slurmstepd does when it cannot start a script: the errno is the exit code. */
    return fail(errno, "%s: %s", argv[0], strerror(errno));
}

static int obey(const struct message *answer)
{
    const char *text = wire_first(answer, "text");
    int code = atoi(wire_first(answer, "exit_code")) & 0xff;

    if (wire_is(answer, "exec"))
        return become(answer);
    if (*text == '\0')
        return fail(code ? code : FATAL, "unexpected answer '%s' of the agent", answer->bytes);
    return fail(code ? code : FATAL, "%s", text);
}

/* Give up the terminal of the session that this process leads, for the script to take it.
 *
 * False when it leads none, or its stdin is not that terminal (`srun --pty` makes both so). The
 * kernel hangs up on the session, this process and its witness, which must not end of it.
 */
static bool release_terminal(void)
{
    if (getsid(0) != getpid() || !isatty(STDIN_FILENO))
        return false;
    signal(SIGHUP, SIG_IGN);
    signal(SIGCONT, SIG_IGN);
    return ioctl(STDIN_FILENO, TIOCNOTTY) == 0;
}

/* Ask the agent why the sandbox ended; empty when it is there, or nobody answers. */
static const char *why_lost(void)
{
    static struct message answer; /* holds what is returned */
    struct timeval limit = {WHY_TIMEOUT_S, 0};
    struct message question = wire_begin("why");
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char pair[64];

    snprintf(pair, sizeof pair, "SLURM_JOB_ID=%s", getenv("SLURM_JOB_ID"));
    wire_add_text(&question, "env", pair);
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(connection, (struct sockaddr *)&step.address, sizeof step.address) == 0 &&
        wire_send(connection, &question, NULL, 0))
        wire_receive(connection, &answer);
    close(connection);
    wire_drop(&question);
    return wire_is(&answer, "why") ? wire_first(&answer, "text") : "";
}

/* Exit with the exit code of a wait status, or die of its signal. */
static int end_as(int status)
{
    sigset_t own;

    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    prctl(PR_SET_DUMPABLE, 0); /* a core was the script's to dump */
    signal(WTERMSIG(status), SIG_DFL);
    sigemptyset(&own);
    sigaddset(&own, WTERMSIG(status));
    kill(getpid(), WTERMSIG(status));
    sigprocmask(SIG_UNBLOCK, &own, NULL);
    return 128 + WTERMSIG(status);
}

static void tell_sandbox_gone(const char *why)
{
    say("the sandbox of this job ended, and everything in it: %s", why);
}

/* End as if the script had been killed; who did it knows the agent. */
static int end_without_keeper(void)
{
    const char *why;

    witness_dismiss(&step.signals.witness);
    why = why_lost();
    if (*why == '\0')
        return fail(FATAL,
                    "the process that held this step inside its sandbox was killed from outside");
    tell_sandbox_gone(why);
    return end_as(SIGKILL);
}

/* The script has ended: wait for the keeper's end too, which is in this step's cgroup.
 *
 * slurmstepd sleeps for a second when it finds a process left in there.
 */
static int end_with(struct message *last)
{
    struct pollfd keeper = {.fd = last->descriptor, .events = POLLIN};
    const char *status = wire_first(last, "status");

    witness_dismiss(&step.signals.witness);
    if (keeper.fd >= 0)
        poll(&keeper, 1, SEE_OFF_MS);
    if (*wire_first(last, "lost")) {
        const char *why = why_lost();

        tell_sandbox_gone(*why ? why : "nobody tells why");
    }
    if (*status < '0' || *status > '9')
        return fail(FATAL, "nobody tells how the script of this step ended");
    return end_as(atoi(status));
}

/* The keeper could not start the script. */
static int end_before(const struct message *last)
{
    witness_dismiss(&step.signals.witness);
    return obey(last);
}

/* Pass signals on until the script has ended; returns the exit code. */
static int attend(void)
{
    struct signals *signals = &step.signals;
    int reports = signals->witness.pid != 0 ? signals->witness.reports : -1;
    struct pollfd waiting[] = {
        {signals->own, POLLIN, 0}, {signals->keeper, POLLIN, 0}, {reports, POLLIN, 0}};
    struct message message;

    for (;;) {
        if (poll(waiting, 3, -1) < 0)
            continue;
        signals_pass_on(signals);
        if (waiting[2].revents & POLLIN)
            signals_hear_witness(signals);
        else if (waiting[2].revents)
            waiting[2].fd = -1; /* somebody killed it */
        if (waiting[1].revents == 0)
            continue;
        if (!wire_receive(signals->keeper, &message))
            return end_without_keeper();
        if (wire_is(&message, "exited"))
            return end_with(&message);
        if (wire_is(&message, "failed"))
            return end_before(&message);
        say("%s", wire_first(&message, "text"));
        wire_drop(&message);
    }
}

static int accompany(int connection)
{
    struct message go = wire_begin("go");
    struct witness *witness = &step.signals.witness;

    if (release_terminal()) { /* the witness saw the hang-up, which is no signal for the script */
        witness_dismiss(witness);
        witness_start(witness);
    }
    witness_settle(witness);
    step.signals.keeper = connection;
    step.signals.own = catch_signals();
    if (step.signals.own < 0)
        die("cannot see this step's signals");
    /* The keeper starts the script only now, when no signal can be lost any more. */
    wire_add_number(&go, "witness", witness->pid);
    wire_send(connection, &go, NULL, 0); /* if it fails, the keeper's last word says why */
    wire_drop(&go);
    wire_drop(&step.request);
    return attend();
}

/* Go through the states; returns the exit code. */
static int run(void)
{
    int connection;

    step.deadline_ms = now_ms() + AGENT_TIMEOUT_MS;
    while ((connection = connect_to_agent()) >= 0) {
        struct message answer;
        bool is_answered = converse(connection, &answer);

        if (is_answered && wire_is(&answer, "entered"))
            return accompany(connection);
        close(connection);
        witness_dismiss(&step.signals.witness);
        if (is_answered && !wire_is(&answer, "busy"))
            return obey(&answer);
        if (is_answered)
            say("%s; waiting for the sbridge agent of this node", wire_first(&answer, "text"));
        else
            say("the sbridge agent of this node went away; waiting for its return");
        wire_drop(&answer);
        pause_ms(RETRY_MS);
    }
    return fail(FATAL, "no sbridge agent answers at %s since %d s", step.address.sun_path,
                AGENT_TIMEOUT_MS / 1000);
}

int main(int argc, char **argv)
{
    const char *node = getenv("SLURMD_NODENAME"), *job = getenv("SLURM_JOB_ID");
    int length;

    prctl(PR_SET_NAME, "sbridge-run"); /* not slurm_script, of which it is the interpreter */
    step.count = find_descriptors();
    fill_stdio();
    step.ignores_pipe = signal(SIGPIPE, SIG_IGN) == SIG_IGN;
    if (!command_of(argc, argv, &step.command))
        return fail(FATAL, "usage: sbridge-run INTERPRETER [SCRIPT [ARGUMENT...]]");
    if (node == NULL || *node == '\0' || job == NULL || *job == '\0')
        return fail(FATAL, "not inside a Slurm job (SLURM_JOB_ID and SLURMD_NODENAME are not set)");
    if (step.count > MOST_OPEN)
        return fail(FATAL,
                    "this step has %d open files, and %d can go into a sandbox at most; close those "
                    "that it does not need, as with `exec 9>&-`, before it begins",
                    step.count, MOST_OPEN);
    step.address.sun_family = AF_UNIX;
    length = snprintf(step.address.sun_path, sizeof step.address.sun_path, "%s/%s/agent.sock",
                      RUN_DIR, node);
    if (length >= (int)sizeof step.address.sun_path)
        return fail(FATAL, "the path of the agent's socket, %s/%s/agent.sock, is too long", RUN_DIR,
                    node);
    ask();
    return run();
}
