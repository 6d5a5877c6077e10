/* An HTTP server on port argv[1]: "/" is the file argv[2] or a greeting, "/healthz" is 200 until "/fail" was asked for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sockets.h"

static int failing;

/* Reads up to the empty line that ends a request's head; 0 where the client went away before. */
static int read_head(int client, char *head, uint32_t size)
{
    uint32_t had = 0, got, flags;
    while (had < size - 1) {
        part rest = {head + had, size - 1 - had};
        if (sock_recv(client, &rest, 1, 0, &got, &flags) || got == 0)
            return 0;
        had += got;
        head[had] = 0;
        if (strstr(head, "\r\n\r\n"))
            return 1;
    }
    return 0;
}

static void answer(int client, const char *status, const char *body)
{
    char text[2048];
    int size = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status,
                        strlen(body), body);
    part whole = {text, size};
    uint32_t sent;
    sock_send(client, &whole, 1, 0, &sent);
}

static void serve(int client, const char *page)
{
    char head[4096], body[1024] = "hello from WASI\n";
    if (!read_head(client, head, sizeof head))
        return;
    if (!strncmp(head, "GET /healthz ", 13)) {
        answer(client, failing ? "503 Service Unavailable" : "200 OK", failing ? "failing\n" : "ok\n");
    } else if (!strncmp(head, "GET /fail ", 10)) {
        failing = 1;
        answer(client, "200 OK", "from now on\n");
    } else if (!strncmp(head, "GET / ", 6)) {
        FILE *file = page ? fopen(page, "r") : NULL;
        if (file) {
            body[fread(body, 1, sizeof body - 1, file)] = 0;
            fclose(file);
        }
        answer(client, "200 OK", body);
    } else {
        answer(client, "404 Not Found", "no such page\n");
    }
}

int main(int argc, char **argv)
{
    uint8_t any[16] = {0};
    address everywhere = {any, 4};
    int server, client, yes = 1;
    /* A server that is restarted in its pod has the port again, while old connections wait for their end. */
    if (argc < 2 || sock_open(INET4, STREAM, &server) ||
        sock_setsockopt(server, SOCKET, REUSE_ADDRESS, &yes, sizeof yes) || sock_bind(server, &everywhere, atoi(argv[1])) ||
        sock_listen(server, 64)) {
        puts("cannot listen");
        return 1;
    }
    printf("listening on port %s\n", argv[1]);
    fflush(stdout);
    for (;;) {
        if (sock_accept(server, &client))
            return 2;
        serve(client, argc > 2 ? argv[2] : NULL);
        close(client);
    }
}
