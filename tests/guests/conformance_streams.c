/* Standard streams: what they are, waiting for them, non-blocking, copying stdin to stdout until its end. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void) {
    struct stat st;
    char buffer[4096];
    for (int fd = 0; fd < 3; fd++) {
        fstat(fd, &st);
        lseek(fd, 0, SEEK_CUR);
        fprintf(stderr, "%d: tty %d type %o flags %x\n", fd, isatty(fd), st.st_mode & S_IFMT, fcntl(fd, F_GETFL));
    }
    struct pollfd wait[2] = {{0, POLLRDNORM, 0}, {1, POLLWRNORM, 0}};
    poll(wait, 2, 100); /* files cannot be waited for: any answer will do */
    int flags = fcntl(0, F_GETFL);
    fcntl(0, F_SETFL, flags | O_NONBLOCK);
    for (;;) {
        ssize_t count = read(0, buffer, sizeof buffer);
        if (count < 0 && errno == EAGAIN) {
            if (poll(wait, 1, 1000) < 0) return 1;
            continue;
        }
        if (count <= 0) break;
        if (write(1, buffer, count) != count) return 1;
    }
    puts("\nend");
    return 0;
}
