/* Prints its arguments and its environment. */
#include <stdio.h>

extern char **environ;

int main(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        printf("arg %s\n", argv[i]);
    for (char **each = environ; each && *each; each++)
        printf("env %s\n", *each);
    return 0;
}
