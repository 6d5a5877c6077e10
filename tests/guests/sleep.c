/* Says that it is up, and sleeps for the seconds of its first argument. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    puts("up");
    fflush(stdout);
    sleep(argc > 1 ? atoi(argv[1]) : 3600);
    return 0;
}
