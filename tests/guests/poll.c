/* Waits for standard input with poll_oneoff, as Go and Rust do, and reads it to its end: ends with the bytes read, or
 * with 100 and the number of what failed. */
#include <poll.h>
#include <unistd.h>

int main(void)
{
    int total = 0;
    for (;;) {
        struct pollfd wait = {0, POLLRDNORM, 0};
        if (poll(&wait, 1, 10000) != 1)
            return 101;
        if (wait.revents & (POLLERR | POLLNVAL))
            return 102;
        char buffer[64];
        ssize_t count = read(0, buffer, sizeof buffer);
        if (count < 0)
            return 103;
        if (count == 0)
            return total;
        total += count;
    }
}
