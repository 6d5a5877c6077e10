/* Says that it is up, by printf, and ends when there is no more input. */
#include <stdio.h>

int main(void)
{
    printf("up, with %d argument%s\n", 0, "s");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return 0;
}
