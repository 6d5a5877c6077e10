/* No _start: a function to be called by name, initialised first. */
#include <stdio.h>

static int ready;

__attribute__((constructor)) static void begin(void) { ready = 1; }

__attribute__((export_name("greet"))) void greet(void)
{
    printf("greet was called, initialised %d\n", ready);
    fflush(stdout);
}

__attribute__((export_name("add"))) int add(int a, int b) { return a + b; }
