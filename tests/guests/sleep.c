/* Says that it is up, and sleeps for the seconds of its first argument.
 * Freezing and thawing ends a wait early (epoll_wait(2), EINTR), so it looks at the clock. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 3600);
    puts("up");
    fflush(stdout);
    while (time(NULL) < end)
        sleep(end - time(NULL));
    return 0;
}
