#define _GNU_SOURCE
#include "witness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SETTLE_MS = 1000, WATCHES = 0 /* no signal has this number */ };

int catch_signals(void)
{
    sigset_t caught;

    sigfillset(&caught);
    sigprocmask(SIG_SETMASK, &caught, NULL);
    return signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC);
}

int read_signal(int signals)
{
    struct signalfd_siginfo told;

    while (read(signals, &told, sizeof told) == sizeof told)
        if (told.ssi_signo != SIGCHLD || told.ssi_code <= 0) /* by somebody, not by the kernel */
            return (int)told.ssi_signo;
    return 0;
}

static void watch(int reports, atomic_bool *is_telling)
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
        atomic_store(is_telling, true);
        while ((number = (uint8_t)read_signal(waiting.fd)) != 0)
            if (write(reports, &number, 1) < 0)
                return;
        atomic_store(is_telling, false);
    }
}

static bool share(atomic_bool **flag)
{
    void *page = mmap(NULL, sizeof **flag, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return false;
    *flag = page;
    return true;
}

void witness_start(struct witness *witness)
{
    int ends[2];
    pid_t parent = getpid();

    if (witness->is_telling == NULL && !share(&witness->is_telling))
        return;
    atomic_store(witness->is_telling, false);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return;
    witness->pid = fork();
    if (witness->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            watch(ends[1], witness->is_telling);
        _exit(0);
    }
    close(ends[1]);
    witness->reports = ends[0];
    if (witness->pid < 0) {
        close(ends[0]);
        witness->pid = 0;
    }
}

int witness_read(const struct witness *witness, uint8_t *numbers, int wait_ms)
{
    struct pollfd waiting = {.fd = witness->reports, .events = POLLIN};
    ssize_t got;

    if (witness->pid == 0 || poll(&waiting, 1, wait_ms) <= 0)
        return 0;
    got = read(witness->reports, numbers, WITNESS_MOST);
    return got > 0 ? (int)got : 0;
}

bool witness_is_to_see(const struct witness *witness, int number)
{
    char path[32], *line = NULL;
    unsigned long long pending = 0;
    size_t room = 0;
    FILE *status;

    if (witness->pid == 0)
        return false;
    snprintf(path, sizeof path, "/proc/%d/status", (int)witness->pid);
    status = fopen(path, "re");
    if (status == NULL)
        return false;
    while (getline(&line, &room, status) > 0 && sscanf(line, "ShdPnd: %llx", &pending) != 1)
        continue;
    free(line);
    fclose(status);
    return pending >> (number - 1) & 1;
}

bool witness_is_telling(const struct witness *witness)
{
    return witness->pid != 0 && atomic_load(witness->is_telling);
}

void witness_settle(const struct witness *witness)
{
    uint8_t numbers[WITNESS_MOST];
    int got;

    while ((got = witness_read(witness, numbers, SETTLE_MS)) > 0)
        if (memchr(numbers, WATCHES, got) != NULL)
            return;
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
