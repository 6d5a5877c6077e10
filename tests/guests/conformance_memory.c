/* Memory: growth a page at a time and at once until refused, use of all of it, a deep but finite stack. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int deep(int n) {
    volatile char frame[64];
    frame[0] = (char)n;
    return n ? deep(n - 1) + frame[0] - (char)n : 0;
}

int main(void) {
    for (int i = 0; i < 64; i++)
        if (__builtin_wasm_memory_grow(0, 1) == (size_t)-1) break;
    for (size_t size = 1; size <= 64u << 20; size *= 4) {
        char *block = malloc(size);
        if (!block) break;
        memset(block, 1, size);
        block = realloc(block, size * 2);
        free(block);
    }
    size_t total = 0;
    while (total < 3u << 30 && __builtin_wasm_memory_grow(0, 1024) != (size_t)-1) total += 1024 * 65536u;
    printf("grew by %zu MiB\n", total >> 20);
    return deep(400);
}
