/* Says hello and ends well. */
#include <stdio.h>

int main(void)
{
    puts("hello from WASI");
    return 0;
}
