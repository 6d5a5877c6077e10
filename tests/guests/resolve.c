/* Prints the addresses of each name in argv, a line each: "name: address address ...". A name that begins with "6:"
 * is looked up for IPv6, and a "/" stands for a file, whose text is printed. Ends with the number of names that
 * have none. */
#include <stdio.h>
#include <string.h>

#include "sockets.h"

enum { MOST = 8 };

static int lookup(const char *node, int family) {
    static uint8_t data[MOST][32];
    static char names[MOST][64];
    static sockaddr_ addrs[MOST];
    static addrinfo_ infos[MOST], *first = infos;
    uint32_t count = 0;
    memset(data, 0, sizeof data);
    for (int i = 0; i < MOST; i++) {
        addrs[i] = (sockaddr_){0, sizeof data[i], data[i]};
        infos[i] = (addrinfo_){.addr = &addrs[i], .name = names[i], .namelen = 64, .next = i < 7 ? &infos[i + 1] : 0};
    }
    addrinfo_ hints = {.family = family, .type = STREAM};
    int error = sock_getaddrinfo(node, strlen(node), "80", 2, &hints, &first, MOST, &count);
    printf("%s:", node);
    if (error)
        printf(" error %d", error);
    for (uint32_t i = 0; i < count && !error; i++) { /* a port in two bytes, then the address */
        uint8_t *at = data[i] + 2;
        if (family == INET6) {
            printf(" ");
            for (int j = 0; j < 16; j += 2)
                printf("%s%x", j ? ":" : "", at[4 + j] << 8 | at[5 + j]);
        } else
            printf(" %d.%d.%d.%d", at[0], at[1], at[2], at[3]);
    }
    printf("\n");
    return error || !count;
}

int main(int argc, char **argv) {
    int missing = 0;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '/') {
            char text[4096];
            FILE *file = fopen(argv[i], "r");
            size_t got = file ? fread(text, 1, sizeof text, file) : 0;
            printf("%s: %.*s", argv[i], (int)got, file ? text : "");
            missing += !file;
        } else
            missing += strncmp(argv[i], "6:", 2) ? lookup(argv[i], INET4) : lookup(argv[i] + 2, INET6);
    }
    return missing;
}
