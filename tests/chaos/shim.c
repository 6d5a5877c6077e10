/* Preloaded into a daemon: its wall clock is ahead of the host's, and a frame that it sends is lost or sent twice, as the
 * file CHAOS_NODE says. The host's own clock must not jump, and a time namespace has none (time_namespaces(7): only
 * monotonic clocks). A frame is lost with its connection: nothing else loses one on a stream socket. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LOSE = 1, TWICE = 2 };

static volatile struct {
    long long seconds; /* ahead */
    int after;         /* frames until the one that it happens to; 0: none */
    int what;
} *node;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CHAOS_NODE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(0, sizeof *node, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    node = at == MAP_FAILED ? 0 : at;
    if (fd >= 0)
        close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!result && node && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += node->seconds;
    return result;
}

time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict where, void *restrict zone)
{
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    where->tv_sec = now.tv_sec;
    where->tv_usec = now.tv_nsec / 1000;
    return result;
}

/* Whether the other end of a stream socket is another process's: the event loop wakes itself by one, too. */
static int to_another(int fd)
{
    int domain = 0, type = 0;
    struct ucred peer = {0};
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) || domain != AF_UNIX)
        return 0;
    size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM)
        return 0;
    size = sizeof peer;
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) && peer.pid && peer.pid != getpid();
}

/* Whether our protocol's or ttrpc's frames go there: to a helper, or from task.sock. HTTP has none that could come twice:
 * the client ends the connection at the second. */
static int of_frames(int fd)
{
    struct sockaddr_un ours = {0};
    socklen_t size = sizeof ours;
    if (getsockname(fd, (struct sockaddr *)&ours, &size))
        return 0;
    return size <= sizeof ours.sun_family || strstr(ours.sun_path, "/task.sock");
}

static int due(int fd)
{
    int what;
    if (!node || node->after <= 0 || !to_another(fd))
        return 0;
    what = node->what;
    if (what == TWICE && !of_frames(fd))
        return 0;
    return __sync_sub_and_fetch(&node->after, 1) ? 0 : what;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    size_t length = 0, i;
    ssize_t sent;
    int what = due(fd);
    for (i = 0; i < message->msg_iovlen; i++)
        length += message->msg_iov[i].iov_len;
    if (what == LOSE) {
        shutdown(fd, SHUT_RDWR);
        return length;
    }
    sent = syscall(SYS_sendmsg, fd, message, flags);
    if (what == TWICE && sent == (ssize_t)length && syscall(SYS_sendmsg, fd, message, flags) != sent)
        shutdown(fd, SHUT_RDWR); /* a part of it is no frame */
    return sent;
}

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    struct iovec part = {(void *)data, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    return sendmsg(fd, &message, flags);
}
