/* Opens one file again and again until that is refused, and stays so. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    int count = 0;
    while (count < 5000 && open("/many", O_RDWR | O_CREAT, 0600) >= 0)
        count++;
    printf("opened %d\n", count);
    fflush(stdout);
    for (;;)
        sleep(3600);
}
