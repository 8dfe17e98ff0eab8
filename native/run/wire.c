#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "words.h"

enum { HEADER_BYTES = 4, MOST_BYTES = 7 * 1024 * 1024, MOST_DESCRIPTORS = 64 };

static char *put(struct message *message, size_t more)
{
    size_t room = message->length + more + 1;

    message->bytes = realloc(message->bytes, room);
    if (message->bytes == NULL)
        die_of_memory();
    message->bytes[room - 1] = '\0';
    message->length += more;
    return message->bytes + message->length - more;
}

struct message wire_none(void)
{
    return (struct message){NULL, 0, -1};
}

struct message wire_begin(const char *kind)
{
    struct message message = wire_none();

    memcpy(put(&message, strlen(kind)), kind, strlen(kind));
    return message;
}

void wire_add(struct message *message, const char *key, const char *value, size_t length)
{
    size_t name = strlen(key);
    char *place = put(message, 1 + name + 1 + length);

    *place = '\0';
    memcpy(place + 1, key, name);
    place[1 + name] = '=';
    memcpy(place + 1 + name + 1, value, length);
}

void wire_add_text(struct message *message, const char *key, const char *value)
{
    wire_add(message, key, value, strlen(value));
}

void wire_add_number(struct message *message, const char *key, long value)
{
    char digits[24];

    snprintf(digits, sizeof digits, "%ld", value);
    wire_add_text(message, key, digits);
}

bool wire_send(int connection, const struct message *message, const int *descriptors, int count)
{
    uint8_t header[HEADER_BYTES];
    struct iovec parts[] = {{header, sizeof header}, {message->bytes, message->length}};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
    } rights;
    struct msghdr whole = {.msg_iov = parts, .msg_iovlen = 2};

    for (int i = 0; i < HEADER_BYTES; i++)
        header[i] = (uint8_t)(message->length >> (8 * (HEADER_BYTES - 1 - i)));
    if (count > 0) {
        memset(&rights, 0, sizeof rights);
        whole.msg_control = rights.space;
        whole.msg_controllen = CMSG_SPACE(count * sizeof(int));
        rights.align.cmsg_level = SOL_SOCKET;
        rights.align.cmsg_type = SCM_RIGHTS;
        rights.align.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&rights.align), descriptors, count * sizeof(int));
    }
    while (whole.msg_iovlen > 0) {
        ssize_t sent = sendmsg(connection, &whole, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return false;
        whole.msg_control = NULL;
        whole.msg_controllen = 0;
        while (whole.msg_iovlen > 0 && (size_t)sent >= whole.msg_iov->iov_len) {
            sent -= whole.msg_iov->iov_len;
            whole.msg_iov++;
            whole.msg_iovlen--;
        }
        if (whole.msg_iovlen > 0) {
            whole.msg_iov->iov_base = (char *)whole.msg_iov->iov_base + sent;
            whole.msg_iov->iov_len -= sent;
        }
    }
    return true;
}

static int descriptor_of(struct msghdr *whole)
{
    struct cmsghdr *part = CMSG_FIRSTHDR(whole);
    int descriptor = -1;

    if (part != NULL && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS)
        memcpy(&descriptor, CMSG_DATA(part), sizeof descriptor);
    return descriptor;
}

/* Receive so many bytes, and a descriptor unless one came before; the kernel closes others. */
static bool receive_exactly(int connection, char *bytes, size_t length, int *descriptor)
{
    while (length > 0) {
        union {
            struct cmsghdr align;
            char space[CMSG_LEN(sizeof(int))];
        } rights;
        struct iovec part = {bytes, length};
        struct msghdr whole = {.msg_iov = &part, .msg_iovlen = 1};
        ssize_t got;

        if (*descriptor < 0) {
            whole.msg_control = rights.space;
            whole.msg_controllen = sizeof rights.space;
        }
        got = recvmsg(connection, &whole, MSG_CMSG_CLOEXEC);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        if (*descriptor < 0)
            *descriptor = descriptor_of(&whole);
        bytes += got;
        length -= got;
    }
    return true;
}

bool wire_receive(int connection, struct message *message)
{
    uint8_t header[HEADER_BYTES];
    size_t length = 0;

    *message = wire_none();
    if (receive_exactly(connection, (char *)header, sizeof header, &message->descriptor)) {
        for (int i = 0; i < HEADER_BYTES; i++)
            length = length << 8 | header[i];
        if (length <= MOST_BYTES &&
            receive_exactly(connection, put(message, length), length, &message->descriptor))
            return true;
    }
    wire_drop(message);
    return false;
}

void wire_drop(struct message *message)
{
    free(message->bytes);
    if (message->descriptor >= 0)
        close(message->descriptor);
    *message = wire_none();
}

bool wire_is(const struct message *message, const char *kind)
{
    return message->bytes != NULL && strcmp(message->bytes, kind) == 0;
}

const char *wire_next(const struct message *message, const char *key, const char *after)
{
    const char *end = message->bytes + message->length;
    const char *field = after ? after : message->bytes;
    size_t name = strlen(key);

    if (message->bytes == NULL)
        return NULL;
    for (field += strlen(field) + 1; field < end; field += strlen(field) + 1)
        if (strncmp(field, key, name) == 0 && field[name] == '=')
            return field + name + 1;
    return NULL;
}

const char *wire_first(const struct message *message, const char *key)
{
    const char *value = wire_next(message, key, NULL);

    return value ? value : "";
}
