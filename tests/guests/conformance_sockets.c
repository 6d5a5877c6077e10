/* WasmEdge's socket calls: a TCP and a UDP exchange over the loopback with itself, options, names, waiting.
 * Ends with 0, or with 1 and the call that failed. With argv[1] "unix" it asks for a Unix socket and ends
 * with 0 only where it is refused; with "open" it ends with the result of opening a TCP socket. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

#include "sockets.h"

#define CHECK(what, call)                                                \
    do {                                                                 \
        int error_ = (call);                                             \
        if (error_) {                                                    \
            fprintf(stderr, "%s: WASI errno %d\n", what, error_);        \
            exit(1);                                                     \
        }                                                                \
    } while (0)

static uint8_t loopback[16] = {127, 0, 0, 1};
static address here = {loopback, 4};

static void lookup(const char *node) {
    static uint8_t data[8][32];
    static char names[8][64];
    static sockaddr_ addrs[8];
    static addrinfo_ infos[8], *first = infos;
    uint32_t count = 0;
    for (int i = 0; i < 8; i++) {
        addrs[i] = (sockaddr_){0, sizeof data[i], data[i]};
        infos[i] = (addrinfo_){.addr = &addrs[i], .name = names[i], .namelen = 64, .next = i < 7 ? &infos[i + 1] : 0};
    }
    addrinfo_ hints = {.family = INET4, .type = STREAM};
    int error = sock_getaddrinfo(node, strlen(node), "80", 2, &hints, &first, 8, &count);
    printf("getaddrinfo %s: %d, %u answers\n", node, error, count);
}

int main(int argc, char **argv) {
    int server, client, accepted, on = 1;
    uint32_t port = 0, type = 0, count = 0, flags = 0, size = sizeof on;
    char buffer[16];
    part out = {"hello", 5}, in = {buffer, sizeof buffer};
    uint8_t peer[16];
    address from = {peer, 4};
    if (argc > 1 && !strcmp(argv[1], "unix")) return sock_open_v2(UNIX, STREAM, &client) == 0;
    if (argc > 1 && !strcmp(argv[1], "open")) return sock_open(INET4, STREAM, &client);

    CHECK("sock_open", sock_open(INET4, STREAM, &server));
    CHECK("sock_setsockopt", sock_setsockopt(server, 0, 0, &on, sizeof on));
    CHECK("sock_getsockopt", sock_getsockopt(server, 0, 1, &on, &size));
    int chosen = 0;
    for (int try = 20000; try < 20100 && !chosen; try++)
        if (sock_bind(server, &here, try) == 0) chosen = try;
    CHECK("sock_bind", !chosen);
    CHECK("sock_listen", sock_listen(server, 4));
    CHECK("sock_open", sock_open(INET4, STREAM, &client));
    CHECK("sock_connect", sock_connect(client, &here, chosen));
    CHECK("sock_accept", sock_accept(server, &accepted));
    CHECK("sock_send", sock_send(client, &out, 1, 0, &count));
    __wasi_subscription_t wait[2] = {{.userdata = 1, .u = {.tag = __WASI_EVENTTYPE_FD_READ}},
                                     {.userdata = 2, .u = {.tag = __WASI_EVENTTYPE_FD_WRITE}}};
    wait[0].u.u.fd_read.file_descriptor = accepted;
    wait[1].u.u.fd_write.file_descriptor = accepted;
    __wasi_event_t events[2];
    __wasi_size_t happened;
    CHECK("poll_oneoff", __wasi_poll_oneoff(wait, events, 2, &happened));
    CHECK("sock_recv", sock_recv(accepted, &in, 1, 0, &count, &flags));
    CHECK("received", count != 5 || memcmp(buffer, "hello", 5));
    CHECK("fd_write", __wasi_fd_write(accepted, (__wasi_ciovec_t *)&out, 1, &happened));
    CHECK("fd_read", __wasi_fd_read(client, (__wasi_iovec_t *)&in, 1, &happened));
    int local = sock_getlocaladdr(client, &from, &type, &port), remote = sock_getpeeraddr(client, &from, &type, &port);
    printf("sock_getlocaladdr %d sock_getpeeraddr %d\n", local, remote);
    CHECK("fd_fdstat_set_flags", __wasi_fd_fdstat_set_flags(client, __WASI_FDFLAGS_NONBLOCK));
    CHECK("sock_shutdown", sock_shutdown(client, 3));

    CHECK("sock_open UDP", sock_open(INET4, DGRAM, &client));
    CHECK("sock_open UDP", sock_open(INET4, DGRAM, &accepted));
    CHECK("sock_bind UDP", sock_bind(client, &here, chosen));
    CHECK("sock_send_to", sock_send_to(accepted, &out, 1, &here, chosen, 0, &count));
    uint8_t storage[128];
    address sender = {storage, sizeof storage};
    int got = sock_recv_from(client, &in, 1, &sender, 0, &count, &flags);
    printf("sock_recv_from %d, %u bytes\n", got, count);
    if (sock_open(INET6, STREAM, &client)) puts("no IPv6");
    lookup("127.0.0.1");
    lookup("localhost");
    lookup("nowhere.invalid");
    return 0;
}
