/* Calls itself without end. */
#include <stdio.h>

static int deeper(volatile int *level)
{
    volatile int next = *level + 1;
    return deeper(&next) + next;
}

int main(void)
{
    volatile int level = 0;
    puts("up");
    fflush(stdout);
    return deeper(&level);
}
