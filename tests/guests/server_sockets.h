/* Servers' sockets: WasmEdge's extension, since there is no listening in WASI preview 1 itself. */
#include <stdint.h>

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

typedef struct {
    uint8_t *data;
    uint32_t size;
} address;
typedef struct {
    const void *data;
    uint32_t size;
} part;

WASI("sock_open") int sock_open(int family, int type, int *fd);
WASI("sock_bind") int sock_bind(int fd, address *addr, int port);
WASI("sock_listen") int sock_listen(int fd, int backlog);
WASI("sock_setsockopt") int sock_setsockopt(int fd, int level, int name, int *flag, uint32_t size);
WASI("sock_accept") int sock_accept(int fd, int *accepted);
WASI("sock_recv") int sock_recv(int fd, part *parts, int count, int flags, uint32_t *got, uint32_t *out);
WASI("sock_send") int sock_send(int fd, part *parts, int count, int flags, uint32_t *sent);

enum { INET4 = 1, STREAM = 2, SOCKET = 0, REUSE_ADDRESS = 0 };
