/* Every WASI call on files and folders that wasi-libc can make, below the folder "/". Ends with 0, or with 1
 * and the name of the first call that did not do what it should. Wants /ro to be a read-only mount of a
 * folder with a file "fixed" in it, where argv[1] is "ro". */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <wasi/api.h>

#define CHECK(what, condition)                                            \
    do {                                                                  \
        if (!(condition)) {                                               \
            fprintf(stderr, "%s: %s\n", what, strerror(errno));           \
            exit(1);                                                      \
        }                                                                 \
    } while (0)

static void content(int fd) {
    char buffer[64] = "";
    struct iovec parts[2] = {{"one ", 4}, {"two", 3}};
    ssize_t done = writev(fd, parts, 2); /* Wasmtime writes and reads the first part alone */
    CHECK("writev", done == 7 || (done == 4 && write(fd, "two", 3) == 3));
    CHECK("pwrite", pwrite(fd, "THREE", 5, 100) == 5);
    CHECK("pread", pread(fd, buffer, 5, 100) == 5 && !memcmp(buffer, "THREE", 5));
    CHECK("lseek", lseek(fd, 0, SEEK_SET) == 0 && lseek(fd, 0, SEEK_CUR) == 0);
    parts[0].iov_base = buffer;
    parts[1].iov_base = buffer + 4;
    done = readv(fd, parts, 2);
    CHECK("readv", (done == 7 || (done == 4 && read(fd, buffer + 4, 3) == 3)) && !memcmp(buffer, "one two", 7));
    CHECK("ftruncate shorter", ftruncate(fd, 3) == 0 && lseek(fd, 0, SEEK_END) == 3);
    CHECK("ftruncate longer", ftruncate(fd, 8192) == 0 && lseek(fd, 0, SEEK_END) == 8192);
    CHECK("posix_fallocate", (errno = posix_fallocate(fd, 0, 16384)) == 0 || errno == ENOTSUP);
    CHECK("ftruncate to the same", ftruncate(fd, 16384) == 0); /* where there is no fd_allocate */
    CHECK("posix_fadvise", (errno = posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED)) == 0);
    CHECK("fsync", fsync(fd) == 0);
    CHECK("fdatasync", fdatasync(fd) == 0);
    struct timespec times[2] = {{1000, 0}, {2000, 0}};
    struct stat st;
    CHECK("futimens", futimens(fd, times) == 0);
    CHECK("fstat", fstat(fd, &st) == 0 && st.st_mtime == 2000 && st.st_size == 16384);
    CHECK("futimens now", futimens(fd, NULL) == 0);
    CHECK("fcntl F_GETFL", fcntl(fd, F_GETFL) >= 0);
    CHECK("fcntl F_SETFL", fcntl(fd, F_SETFL, O_APPEND) == 0 && fcntl(fd, F_SETFL, 0) == 0);
    CHECK("isatty", !isatty(fd));
}

static void names(void) {
    char buffer[64] = "";
    struct stat st;
    CHECK("mkdir", mkdir("/d", 0755) == 0 && mkdir("/d/e", 0755) == 0 && mkdir("/f", 0755) == 0);
    int fd = open("/d/a", O_CREAT | O_EXCL | O_RDWR, 0644);
    CHECK("open O_CREAT|O_EXCL", fd >= 0);
    content(fd);
    CHECK("close", close(fd) == 0);
    CHECK("open O_EXCL again", open("/d/a", O_CREAT | O_EXCL | O_RDWR, 0644) < 0 && errno == EEXIST);
    CHECK("rename in a folder", rename("/d/a", "/d/b") == 0);
    CHECK("rename between folders", rename("/d/b", "/f/b") == 0);
    CHECK("rename a folder", rename("/d/e", "/f/e") == 0);
    CHECK("link", link("/f/b", "/d/c") == 0);
    CHECK("symlink", symlink("c", "/d/s") == 0);
    CHECK("readlink", readlink("/d/s", buffer, sizeof buffer) == 1);
    CHECK("stat", stat("/d/s", &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 2);
    CHECK("lstat", lstat("/d/s", &st) == 0 && S_ISLNK(st.st_mode));
    CHECK("access", access("/d/c", R_OK) == 0);
    struct timespec times[2] = {{5, 0}, {6, 0}};
    CHECK("utimensat", utimensat(AT_FDCWD, "/d/c", times, 0) == 0 && stat("/d/c", &st) == 0 && st.st_mtime == 6);
    CHECK("open O_TRUNC", (fd = open("/d/s", O_WRONLY | O_TRUNC)) >= 0 && close(fd) == 0);
    CHECK("open O_APPEND", (fd = open("/d/c", O_WRONLY | O_APPEND)) >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
    CHECK("open missing", open("/d/none", O_RDONLY) < 0 && errno == ENOENT);
    CHECK("leave the root", open("/../../etc/shadow", O_RDONLY) < 0);
    DIR *folder = opendir("/d");
    int found = 0;
    CHECK("opendir", folder);
    for (struct dirent *entry; (entry = readdir(folder));) found += !strcmp(entry->d_name, "c");
    CHECK("readdir", found == 1);
    rewinddir(folder);
    CHECK("rewinddir", readdir(folder));
    CHECK("closedir", closedir(folder) == 0);
    CHECK("unlink", unlink("/d/s") == 0 && unlink("/d/c") == 0 && unlink("/f/b") == 0);
    CHECK("rmdir full", rmdir("/f") < 0 && errno == ENOTEMPTY);
    CHECK("rmdir", rmdir("/f/e") == 0 && rmdir("/f") == 0 && rmdir("/d") == 0);
}

static void many(void) {
    char *block = malloc(1 << 20);
    memset(block, 'x', 1 << 20);
    FILE *file = fopen("/big", "w+");
    CHECK("fopen", file);
    for (int i = 0; i < 4; i++) CHECK("fwrite", fwrite(block, 1 << 20, 1, file) == 1);
    rewind(file);
    for (int i = 0; i < 4; i++) CHECK("fread", fread(block, 1 << 20, 1, file) == 1);
    CHECK("fclose", fclose(file) == 0 && unlink("/big") == 0);
    int fds[100];
    for (int i = 0; i < 100; i++) CHECK("open many", (fds[i] = open("/many", O_CREAT | O_RDWR, 0644)) >= 0);
    CHECK("fd_renumber", __wasi_fd_renumber(fds[1], fds[0]) == 0);
    for (int i = 0; i < 100; i++) if (i != 1) close(fds[i]);
    CHECK("unlink many", unlink("/many") == 0);
}

static void readonly(void) {
    char buffer[8];
    int fd = open("/ro/fixed", O_RDONLY);
    CHECK("read-only: read", fd >= 0 && read(fd, buffer, 1) == 1 && close(fd) == 0);
    fd = open("/ro/fixed", O_WRONLY); /* WasmEdge gives one that cannot be written to */
    CHECK("read-only: write", fd < 0 || (write(fd, "x", 1) < 0 && ftruncate(fd, 0) < 0));
    CHECK("read-only: create", open("/ro/new", O_CREAT | O_WRONLY, 0644) < 0);
    CHECK("read-only: unlink", unlink("/ro/fixed") < 0);
    CHECK("read-only: rename", rename("/ro/fixed", "/ro/other") < 0);
    CHECK("read-only: rename out", rename("/ro/fixed", "/fixed") < 0);
    CHECK("read-only: link out", link("/ro/fixed", "/fixed") < 0);
    CHECK("read-only: mkdir", mkdir("/ro/new", 0755) < 0);
    CHECK("read-only: symlink", symlink("fixed", "/ro/new") < 0);
    CHECK("read-only: opendir", opendir("/ro"));
}

int main(int argc, char **argv) {
    names();
    many();
    if (argc > 1 && !strcmp(argv[1], "ro")) readonly();
    return 0;
}
