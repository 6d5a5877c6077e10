/* Writes lines, as many as its first argument says, and the last of them tells so. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    long lines = atol(argc > 1 ? argv[1] : "1000");
    for (long i = 1; i <= lines; i++)
        printf("line %ld of %ld %0*d\n", i, lines, 60, 0);
    return ferror(stdout) != 0;
}
