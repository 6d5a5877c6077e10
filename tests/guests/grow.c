/* For each line that it reads: takes all the memory it is given, touches it, and says how many pages it has. */
#include <stdio.h>

#define PAGE 65536

int main(void)
{
    size_t touched = __builtin_wasm_memory_size(0) * PAGE;
    for (int c = getchar(); c != EOF; c = getchar()) {
        if (c != '\n')
            continue;
        while (__builtin_wasm_memory_grow(0, 1) != (size_t)-1)
            ;
        size_t end = __builtin_wasm_memory_size(0) * PAGE;
        for (; touched < end; touched += 4096)
            *(volatile char *)touched = 1;
        printf("%zu\n", end / PAGE);
        fflush(stdout);
    }
    return 0;
}
