/* Makes argv[1] folders, each in the one before it. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int at = open("/", O_RDONLY | O_DIRECTORY), made = 0;
    for (int left = argc > 1 ? atoi(argv[1]) : 0; left > 0; left--, made++) {
        if (mkdirat(at, "d", 0755) != 0) break;
        int inside = openat(at, "d", O_RDONLY | O_DIRECTORY);
        if (inside < 0) break;
        close(at);
        at = inside;
    }
    printf("%d folders\n", made);
    return 0;
}
