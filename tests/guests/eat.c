/* Takes all the memory it is given, and touches it. */
#include <stdio.h>

#define PAGE 65536

int main(void)
{
    puts("up");
    fflush(stdout);
    while (__builtin_wasm_memory_grow(0, 1) != (size_t)-1)
        ;
    size_t end = __builtin_wasm_memory_size(0) * PAGE;
    for (size_t at = PAGE; at < end; at += 4096) {
        volatile char *byte = (volatile char *)at;
        *byte = *byte;
    }
    puts("touched it all");
    return 0;
}
