/* Listens on port argv[1] of every address, and answers each connection with argv[2]. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sockets.h"

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
