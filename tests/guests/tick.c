/* Writes a line every 20 ms, as many as its first argument says, and ends with the status of its second. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int ticks = argc > 1 ? atoi(argv[1]) : 100;
    for (int i = 1; i <= ticks; i++) {
        printf("tick %d\n", i);
        fflush(stdout);
        usleep(20000);
    }
    return argc > 2 ? atoi(argv[2]) : 0;
}
