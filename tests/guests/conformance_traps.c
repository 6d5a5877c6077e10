/* One trap of each kind, chosen by argv[1]. */
#include <stdlib.h>
#include <string.h>

/* Later headers have lost this call of WASI preview 1; WasmEdge serves it. */
__attribute__((import_module("wasi_snapshot_preview1"), import_name("proc_raise"))) int proc_raise(int number);

enum { WASI_SIGABRT = 6 };

static volatile int zero;

__attribute__((noinline)) static int forever(volatile int n) {
    volatile char frame[256];
    frame[n & 255] = 1;
    return forever(n + 1) + frame[0];
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    if (!strcmp(kind, "unreachable")) __builtin_trap();
    if (!strcmp(kind, "divide")) return (argc + 1000) / zero;
    if (!strcmp(kind, "bounds")) return *(volatile int *)0xfffffff0u;
    if (!strcmp(kind, "table")) return ((int (*)(void))(unsigned long)(zero + 0x7fffffff))();
    if (!strcmp(kind, "type")) return ((int (*)(int, int, int, int, int))(void *)abort)(1, 2, 3, 4, zero);
    if (!strcmp(kind, "stack")) return forever(zero);
    if (!strcmp(kind, "abort")) abort();
    if (!strcmp(kind, "raise")) return proc_raise(WASI_SIGABRT);
    return 7;
}
