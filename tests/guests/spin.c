/* Says that it is up, and computes for ever. */
#include <stdio.h>

int main(void)
{
    volatile unsigned count = 0;
    puts("up");
    fflush(stdout);
    for (;;)
        count++;
}
