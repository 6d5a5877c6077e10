/* Writes zeros into the file argv[1] until that fails. On a tmpfs this takes memory that is not the guest's own. */
#include <stdio.h>

static char block[65536];

int main(int argc, char **argv)
{
    FILE *file = argc > 1 ? fopen(argv[1], "w") : NULL;
    if (!file)
        return 1;
    while (fwrite(block, sizeof block, 1, file) == 1)
        ;
    puts("full");
    return 0;
}
