#define _GNU_SOURCE
#include "witness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    LOOK_MS = 10,
    SAW_MS = 50,
    MOST_MS = 500, /* on a node that lets neither the witness nor the sender run */
    BEGIN_MS = 1000,
    WATCHES = 0, /* no signal has this number */
};

int catch_signals(void)
{
    sigset_t caught;

    sigfillset(&caught);
    sigdelset(&caught, SIGCHLD);
    sigprocmask(SIG_SETMASK, &caught, NULL);
    return signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC);
}

struct signal read_signal(int signals)
{
    struct signalfd_siginfo told;

    if (read(signals, &told, sizeof told) != sizeof told)
        return (struct signal){0, 0};
    return (struct signal){(int)told.ssi_signo, (pid_t)told.ssi_pid};
}

static void watch(int reports)
{
    struct pollfd waiting = {.events = POLLIN};
    uint8_t number = WATCHES;

    if (close_range(0, reports - 1, 0) != 0 || close_range(reports + 1, ~0U, 0) != 0)
        return;
    waiting.fd = catch_signals();
    if (waiting.fd < 0 || write(reports, &number, 1) < 0)
        return;
    for (;;) {
        if (poll(&waiting, 1, -1) < 0 && errno != EINTR)
            return;
        while ((number = (uint8_t)read_signal(waiting.fd).number) != 0)
            if (write(reports, &number, 1) < 0)
                return;
    }
}

void witness_start(struct witness *witness)
{
    int ends[2];
    pid_t parent = getpid();

    memset(witness->seen, 0, sizeof witness->seen);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return;
    witness->pid = fork();
    if (witness->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            watch(ends[1]);
        _exit(0);
    }
    close(ends[1]);
    witness->reports = ends[0];
    if (witness->pid < 0) {
        close(ends[0]);
        witness->pid = 0;
    }
}

static bool has_seen(struct witness *witness, int number, long wait_ms)
{
    struct pollfd waiting = {.fd = witness->reports, .events = POLLIN};
    struct timespec now, end;
    uint8_t numbers[64];

    if (witness->pid == 0)
        return false;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += wait_ms * 1000000;
    while (witness->seen[number] == 0) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        long left_ms = (end.tv_sec - now.tv_sec) * 1000 + (end.tv_nsec - now.tv_nsec) / 1000000;
        ssize_t got;

        if (left_ms <= 0 || poll(&waiting, 1, (int)left_ms) <= 0)
            return false;
        got = read(witness->reports, numbers, sizeof numbers);
        if (got <= 0)
            return false;
        for (ssize_t i = 0; i < got; i++)
            witness->seen[numbers[i]]++;
    }
    return true;
}

void witness_settle(struct witness *witness)
{
    has_seen(witness, WATCHES, BEGIN_MS);
    memset(witness->seen, 0, sizeof witness->seen);
}

/* Whether the signal was sent to this process, which has not run since. */
static bool is_pending(pid_t pid, int number)
{
    char path[64], line[128];
    unsigned long long pending = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    file = fopen(path, "re");
    if (file == NULL)
        return false;
    while (fgets(line, sizeof line, file) != NULL && sscanf(line, "ShdPnd: %llx", &pending) != 1)
        continue;
    fclose(file);
    return pending >> (number - 1) & 1;
}

/* Whether a thread of this process runs or is about to, as one that has more signals to send. */
static bool is_running(pid_t pid)
{
    char path[64];
    bool is_any = false;
    struct dirent *entry;
    DIR *threads;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    threads = opendir(path);
    if (threads == NULL)
        return false;
    while (!is_any && (entry = readdir(threads)) != NULL) {
        char name[300], stat[512] = "";
        const char *state;
        ssize_t got;
        int file;

        snprintf(name, sizeof name, "%s/stat", entry->d_name);
        file = openat(dirfd(threads), name, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            continue;
        got = read(file, stat, sizeof stat - 1);
        close(file);
        state = got > 0 ? strrchr(stat, ')') : NULL; /* a name may hold anything */
        is_any = state != NULL && strncmp(state, ") R", 3) == 0;
    }
    closedir(threads);
    return is_any;
}

bool witness_saw(struct witness *witness, struct signal signal)
{
    for (int waited_ms = 0; !has_seen(witness, signal.number, LOOK_MS); waited_ms += LOOK_MS) {
        bool was_sent = is_pending(witness->pid, signal.number);

        if (witness->pid == 0 || waited_ms >= MOST_MS)
            return was_sent;
        if (waited_ms >= SAW_MS && !was_sent && !is_running(signal.sender))
            return false;
    }
    witness->seen[signal.number]--;
    return true;
}

void witness_dismiss(struct witness *witness)
{
    if (witness->pid == 0)
        return;
    kill(witness->pid, SIGKILL);
    while (waitpid(witness->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    close(witness->reports);
    witness->pid = 0;
}
