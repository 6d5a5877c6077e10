/* Copies standard input to standard output until its end. */
#include <unistd.h>

int main(void)
{
    char buffer[4096];
    ssize_t got;
    while ((got = read(0, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(1, buffer + done, got - done);
            if (put < 0)
                return 2;
            done += put;
        }
    return got < 0;
}
