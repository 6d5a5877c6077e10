/* Asks for the megabytes of its first argument, touches them, and says if it got them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    size_t bytes = (size_t)atoi(argc > 1 ? argv[1] : "1") << 20;
    char *volatile memory = malloc(bytes); /* volatile: or the compiler sees that nobody needs it */
    if (!memory) {
        puts("refused");
        return 1;
    }
    memset(memory, 1, bytes);
    printf("got %zu\n", bytes >> 20);
    return 0;
}
