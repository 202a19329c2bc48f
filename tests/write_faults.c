/* Fails, or kills the process, at the n-th call that changes a file below a folder.

   cc -shared -fPIC -O1 -o write_faults.so write_faults.c -ldl; LD_PRELOAD=write_faults.so python …

   Does nothing until write_faults_arm is called (by ctypes), so that one process can load what it
   needs, fork, and arm each child anew. Calls are counted over all threads of a process. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = -1 };

static char prefix[PATH_MAX];
static size_t prefix_length;
static long first, last;
static int failure, log_file = -1;
static atomic_long calls;
static atomic_int armed;

/* From now on calls are counted that change what is below `folder`; those from the `from`-th to the
   `to`-th fail with `error` (0: none does, -1: the process group is killed). The first of them, if
   it writes, first writes half, as a disk that fills does. Each is a line of `log`: "n call path". */
void write_faults_arm(const char *folder, long from, long to, int error, const char *log) {
  snprintf(prefix, sizeof prefix, "%s", folder);
  prefix_length = strlen(prefix);
  first = from, last = to, failure = error;
  log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  atomic_store(&calls, 0);
  atomic_store(&armed, 1);
}

static int below(const char *path) {
  return strncmp(path, prefix, prefix_length) == 0 &&
         (path[prefix_length] == '/' || path[prefix_length] == 0);
}

static void path_of_file(int file, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  path[length < 0 ? 0 : length] = 0;
}

static void path_at(int folder, const char *name, char *path) {
  char start[PATH_MAX] = "";
  if (name[0] != '/') {
    if (folder == AT_FDCWD) {
      if (syscall(SYS_getcwd, start, sizeof start) < 0) start[0] = 0;
    } else {
      path_of_file(folder, start);
    }
  }
  snprintf(path, PATH_MAX, "%s%s%s", start, start[0] ? "/" : "", name);
}

/* Counts a call. Returns 0 where it is to be made, otherwise the error; `half` is set at the first
   one that fails. */
static int judge(const char *call, const char *path, int *half) {
  if (!below(path)) return 0;
  long number = atomic_fetch_add(&calls, 1) + 1;
  char line[PATH_MAX + 64];
  int length = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path);
  if (log_file >= 0) syscall(SYS_write, log_file, line, length);
  if (!failure || number < first || number > last) return 0;
  *half = number == first;
  return failure;
}

static int fail(int error) {
  if (error == KILL) syscall(SYS_kill, -getpgrp(), SIGKILL);
  errno = error;
  return -1;
}

static int judge_file(const char *call, int file, int *half) {
  char path[PATH_MAX];
  int saved = errno;
  path_of_file(file, path);
  errno = saved;
  return judge(call, path, half);
}

static int judge_path(const char *call, int folder, const char *name, int *half) {
  char path[PATH_MAX];
  int saved = errno;
  path_at(folder, name, path);
  errno = saved;
  return judge(call, path, half);
}

#define REAL(name)                                         \
  static __typeof__(name) *real;                           \
  if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

/* --- by path */

#define CHECK_PATH(folder, name)                                              \
  do {                                                                        \
    int half, error = atomic_load(&armed) ? judge_path(__func__, folder, name, &half) : 0; \
    if (error) return fail(error);                                            \
  } while (0)

#define OPEN(name, PARAMETERS, folder, ...)                                   \
  int name PARAMETERS {                                                       \
    REAL(name);                                                               \
    va_list arguments;                                                        \
    va_start(arguments, flags);                                               \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0; \
    va_end(arguments);                                                        \
    if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) CHECK_PATH(folder, path); \
    return real(__VA_ARGS__, flags, mode);                                    \
  }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(openat, (int folder, const char *path, int flags, ...), folder, folder, path)
OPEN(openat64, (int folder, const char *path, int flags, ...), folder, folder, path)

#define FOPEN(name)                                                           \
  FILE *name(const char *path, const char *mode) {                            \
    REAL(name);                                                               \
    int half, error = 0;                                                      \
    if (atomic_load(&armed) && strpbrk(mode, "wa+"))                          \
      error = judge_path(#name, AT_FDCWD, path, &half);                       \
    if (error) return fail(error), NULL;                                      \
    return real(path, mode);                                                  \
  }
FOPEN(fopen)
FOPEN(fopen64)

#define BY_PATH(name, PARAMETERS, folder, path, ...)                          \
  int name PARAMETERS {                                                       \
    REAL(name);                                                               \
    CHECK_PATH(folder, path);                                                 \
    return real(__VA_ARGS__);                                                 \
  }
BY_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, path, mode)
BY_PATH(mkdirat, (int folder, const char *path, mode_t mode), folder, path, folder, path, mode)
BY_PATH(unlink, (const char *path), AT_FDCWD, path, path)
BY_PATH(unlinkat, (int folder, const char *path, int flags), folder, path, folder, path, flags)
BY_PATH(rmdir, (const char *path), AT_FDCWD, path, path)
BY_PATH(rename, (const char *from, const char *to), AT_FDCWD, to, from, to)
BY_PATH(renameat, (int a, const char *from, int b, const char *to), b, to, a, from, b, to)
BY_PATH(renameat2, (int a, const char *from, int b, const char *to, unsigned int flags), b, to, a,
        from, b, to, flags)
BY_PATH(link, (const char *from, const char *to), AT_FDCWD, to, from, to)
BY_PATH(linkat, (int a, const char *from, int b, const char *to, int flags), b, to, a, from, b, to,
        flags)
BY_PATH(symlink, (const char *to, const char *path), AT_FDCWD, path, to, path)
BY_PATH(symlinkat, (const char *to, int folder, const char *path), folder, path, to, folder, path)
BY_PATH(truncate, (const char *path, off_t size), AT_FDCWD, path, path, size)
BY_PATH(truncate64, (const char *path, off64_t size), AT_FDCWD, path, path, size)

/* --- by file */

#define BY_FILE(type, name, PARAMETERS, file, HALF, ...)                      \
  type name PARAMETERS {                                                      \
    REAL(name);                                                               \
    int half = 0, error = atomic_load(&armed) ? judge_file(#name, file, &half) : 0; \
    if (!error) return real(__VA_ARGS__);                                     \
    if (half) HALF;                                                           \
    return fail(error);                                                       \
  }
/* Half of it is written: what the caller is told, unless the process is killed; then the disk is
   full, or, where only one call fails, it was. */
#define WRITE_HALF(call)            \
  do {                              \
    ssize_t written = count > 1 ? call : 0; \
    if (error != KILL && error == ENOSPC && written > 0) return written; \
  } while (0)
#define NOTHING (void)0
BY_FILE(ssize_t, write, (int file, const void *data, size_t count), file,
        WRITE_HALF(real(file, data, count / 2)), file, data, count)
BY_FILE(ssize_t, pwrite, (int file, const void *data, size_t count, off_t at), file,
        WRITE_HALF(real(file, data, count / 2, at)), file, data, count, at)
BY_FILE(ssize_t, pwrite64, (int file, const void *data, size_t count, off64_t at), file,
        WRITE_HALF(real(file, data, count / 2, at)), file, data, count, at)
BY_FILE(ssize_t, writev, (int file, const struct iovec *parts, int count), file,
        WRITE_HALF(real(file, parts, count / 2)), file, parts, count)
BY_FILE(ssize_t, pwritev, (int file, const struct iovec *parts, int count, off_t at), file,
        WRITE_HALF(real(file, parts, count / 2, at)), file, parts, count, at)
BY_FILE(ssize_t, pwritev64, (int file, const struct iovec *parts, int count, off64_t at), file,
        WRITE_HALF(real(file, parts, count / 2, at)), file, parts, count, at)
BY_FILE(ssize_t, sendfile, (int file, int from, off_t *at, size_t count), file, NOTHING, file, from,
        at, count)
BY_FILE(ssize_t, sendfile64, (int file, int from, off64_t *at, size_t count), file, NOTHING, file,
        from, at, count)
BY_FILE(ssize_t, copy_file_range,
        (int from, off64_t *a, int file, off64_t *b, size_t count, unsigned int flags), file,
        NOTHING, from, a, file, b, count, flags)
BY_FILE(int, ftruncate, (int file, off_t size), file, NOTHING, file, size)
BY_FILE(int, ftruncate64, (int file, off64_t size), file, NOTHING, file, size)
BY_FILE(int, fallocate, (int file, int mode, off_t at, off_t size), file, NOTHING, file, mode, at,
        size)
BY_FILE(int, fallocate64, (int file, int mode, off64_t at, off64_t size), file, NOTHING, file, mode,
        at, size)
BY_FILE(int, fsync, (int file), file, NOTHING, file)
BY_FILE(int, fdatasync, (int file), file, NOTHING, file)

/* The file is closed all the same, as it is on Linux. */
int close(int file) {
  REAL(close);
  int error = 0, half, saved = errno;
  if (atomic_load(&armed) && file > 2) {
    int flags = syscall(SYS_fcntl, file, F_GETFL);
    errno = saved;
    if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY) error = judge_file("close", file, &half);
  }
  if (error == KILL) return fail(error);
  int result = real(file);
  return error ? fail(error) : result;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
  REAL(fwrite);
  int half, error = atomic_load(&armed) ? judge_file("fwrite", fileno(file), &half) : 0;
  if (error) return fail(error), 0;
  return real(data, size, count, file);
}
