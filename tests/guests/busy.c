/* Computes for as many rounds as its first argument says, and prints the result. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    uint64_t x = 88172645463325252u;
    uint32_t table[256] = {0}, sum = 0;
    for (long n = argc > 1 ? atol(argv[1]) : 1; n > 0; n--) { /* xorshift64 */
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        table[x & 255] += (uint32_t)(x >> 32);
    }
    for (int i = 0; i < 256; i++)
        sum ^= table[i];
    printf("%u\n", sum);
    return 0;
}
