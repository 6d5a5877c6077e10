/* Ends with the status of its first argument. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    int status = argc > 1 ? atoi(argv[1]) : 0;
    fprintf(stderr, "ending with %d\n", status);
    exit(status);
}
