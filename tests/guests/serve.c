/* Listens on port argv[1] of every address, and answers each connection with argv[2]. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

typedef struct {
    uint8_t *data;
    uint32_t size;
} address;
typedef struct {
    const void *data;
    uint32_t size;
} part;

/* WasmEdge's socket extension; there is no listening in WASI preview 1 itself. */
WASI("sock_open") int sock_open(int family, int type, int *fd);
WASI("sock_bind") int sock_bind(int fd, address *addr, int port);
WASI("sock_listen") int sock_listen(int fd, int backlog);
WASI("sock_accept") int sock_accept(int fd, int *accepted);
WASI("sock_send") int sock_send(int fd, part *parts, int count, int flags, uint32_t *sent);

enum { INET4 = 1, STREAM = 2 };

int main(int argc, char **argv)
{
    uint8_t any[16] = {0};
    address everywhere = {any, 4};
    int server, client;
    uint32_t sent;
    if (argc < 3 || sock_open(INET4, STREAM, &server) || sock_bind(server, &everywhere, atoi(argv[1])) ||
        sock_listen(server, 5)) {
        puts("cannot listen");
        return 1;
    }
    puts("listening");
    fflush(stdout);
    for (;;) {
        part answer = {argv[2], strlen(argv[2])};
        if (sock_accept(server, &client))
            return 2;
        if (sock_send(client, &answer, 1, 0, &sent))
            return 3;
        close(client);
    }
}
