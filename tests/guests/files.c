/* A little shell for files: each argument is "r PATH", "w PATH TEXT", "l FOLDER" or "m FOLDER". */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void say(const char *path, const char *what) { printf("%s: %s\n", path, what); }

static void read_file(const char *path)
{
    char text[256] = "";
    FILE *file = fopen(path, "r");
    if (!file) {
        say(path, strerror(errno));
        return;
    }
    size_t got = fread(text, 1, sizeof text - 1, file);
    if (got == 0 && ferror(file))
        say(path, strerror(errno));
    else
        say(path, strtok(text, "\n") ? text : "");
    fclose(file);
}

static void write_file(char *path)
{
    char *text = strchr(path, ' ');
    *text++ = 0;
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file))
        say(path, strerror(errno));
    else
        say(path, "written");
}

static void list(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder) {
        say(path, strerror(errno));
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_name[0] != '.')
            say(path, entry->d_name);
    closedir(folder);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        switch (argv[i][0]) {
        case 'r': read_file(argv[i] + 2); break;
        case 'w': write_file(argv[i] + 2); break;
        case 'l': list(argv[i] + 2); break;
        case 'm': say(argv[i] + 2, mkdir(argv[i] + 2, 0755) ? strerror(errno) : "made"); break;
        default: return 2;
        }
    return 0;
}
