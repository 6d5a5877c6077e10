/* Sockets and names: WasmEdge's extension, since WASI preview 1 itself opens none. */
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
typedef struct {
    uint32_t family, size;
    uint8_t *data;
} sockaddr_;
typedef struct addrinfo_ {
    uint16_t flags;
    uint8_t family, type;
    uint32_t protocol, addrlen;
    sockaddr_ *addr;
    char *name;
    uint32_t namelen;
    struct addrinfo_ *next;
} addrinfo_;

WASI("sock_open") int sock_open(int family, int type, int *fd);
WASI("sock_open_v2") int sock_open_v2(int family, int type, int *fd);
WASI("sock_bind") int sock_bind(int fd, address *addr, int port);
WASI("sock_listen") int sock_listen(int fd, int backlog);
WASI("sock_accept") int sock_accept(int fd, int *accepted);
WASI("sock_connect") int sock_connect(int fd, address *addr, int port);
WASI("sock_send") int sock_send(int fd, part *parts, int count, int flags, uint32_t *sent);
WASI("sock_recv") int sock_recv(int fd, part *parts, int count, int flags, uint32_t *got, uint32_t *out);
WASI("sock_send_to")
int sock_send_to(int fd, part *parts, int count, address *to, int port, int flags, uint32_t *sent);
WASI("sock_recv_from")
int sock_recv_from(int fd, part *parts, int count, address *from, int flags, uint32_t *got, uint32_t *out);
WASI("sock_getlocaladdr") int sock_getlocaladdr(int fd, address *addr, uint32_t *type, uint32_t *port);
WASI("sock_getpeeraddr") int sock_getpeeraddr(int fd, address *addr, uint32_t *type, uint32_t *port);
WASI("sock_setsockopt") int sock_setsockopt(int fd, int level, int name, int *value, uint32_t size);
WASI("sock_getsockopt") int sock_getsockopt(int fd, int level, int name, int *value, uint32_t *size);
WASI("sock_shutdown") int sock_shutdown(int fd, int how);
WASI("sock_getaddrinfo")
int sock_getaddrinfo(const char *node, int nodelen, const char *service, int servicelen, addrinfo_ *hints,
                     addrinfo_ **results, int max, uint32_t *count);

enum { INET4 = 1, INET6 = 2, UNIX = 3, DGRAM = 1, STREAM = 2, SOCKET = 0, REUSE_ADDRESS = 0 };
