/* Listens on the TCP port of its first argument, greets one client, and ends. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))
typedef struct { uint8_t *data; uint32_t size; } address;
typedef struct { void *data; uint32_t size; } part;

WASI("sock_open") int sock_open(int family, int type, int *fd);
WASI("sock_bind") int sock_bind(int fd, address *addr, int port);
WASI("sock_listen") int sock_listen(int fd, int backlog);
WASI("sock_accept") int sock_accept(int fd, int *accepted);
WASI("sock_send") int sock_send(int fd, part *parts, int n, int flags, uint32_t *sent);

enum { INET4 = 1, STREAM = 2 };

int main(int argc, char **argv)
{
    static uint8_t any[16];
    address here = {any, 4};
    part greeting = {"hello over TCP\n", 15};
    int server, client;
    uint32_t sent;
    if (sock_open(INET4, STREAM, &server) || sock_bind(server, &here, argc > 1 ? atoi(argv[1]) : 8080))
        return 2;
    if (sock_listen(server, 4))
        return 3;
    puts("listening");
    fflush(stdout);
    if (sock_accept(server, &client) || sock_send(client, &greeting, 1, 0, &sent))
        return 4;
    return 0;
}
