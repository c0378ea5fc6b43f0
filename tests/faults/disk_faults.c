/* A library for LD_PRELOAD: a disk without locks, or a slow one, below the folder DISK_FAULT_FOLDER alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int concerns(const char *fault, int file) {
  const char *wanted = getenv("DISK_FAULT"), *folder = getenv("DISK_FAULT_FOLDER");
  char link[64], path[4096];
  int saved = errno;
  if (!wanted || !folder || strcmp(wanted, fault)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path);
  errno = saved;
  return length > 0 && (size_t)length >= strlen(folder) && !strncmp(path, folder, strlen(folder));
}

static void wait_for_disk(int file, long milliseconds) {
  struct timespec time = {0, milliseconds * 1000000};
  if (concerns("slow", file)) nanosleep(&time, NULL);
}

int flock(int file, int operation) {
  if (concerns("no locks", file)) { errno = ENOLCK; return -1; }
  return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}

static int locks(int command) {
  return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
}

#define FCNTL(name)                                                                    \
  int name(int file, int command, ...) {                                               \
    va_list rest;                                                                      \
    va_start(rest, command);                                                           \
    void *argument = va_arg(rest, void *);                                             \
    va_end(rest);                                                                      \
    if (locks(command) && concerns("no locks", file)) { errno = ENOLCK; return -1; }   \
    return ((int (*)(int, int, ...))dlsym(RTLD_NEXT, #name))(file, command, argument); \
  }
FCNTL(fcntl)
FCNTL(fcntl64)

int fsync(int file) { wait_for_disk(file, 30); return REAL(fsync)(file); }
int fdatasync(int file) { wait_for_disk(file, 30); return REAL(fdatasync)(file); }
ssize_t write(int file, const void *from, size_t count) { wait_for_disk(file, 3); return REAL(write)(file, from, count); }
ssize_t pwrite64(int file, const void *from, size_t count, off64_t at) {
  wait_for_disk(file, 3);
  return REAL(pwrite64)(file, from, count, at);
}
