/* Power that fails: what a server has written to its append-only file is lost unless it was synced.
   Loaded with LD_PRELOAD. What goes to that file is kept here until fsync or fdatasync; a SIGKILL loses it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *kept;
static size_t used, room;
static int file = -1;

static int is_log(int fd) {
  char name[32], path[4096];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(name, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strstr(path, ".incr.aof") != NULL;
}

ssize_t write(int fd, const void *bytes, size_t count) {
  static ssize_t (*real)(int, const void *, size_t);
  if (!real) real = dlsym(RTLD_NEXT, "write");
  if (fd != file && !is_log(fd)) return real(fd, bytes, count);
  pthread_mutex_lock(&lock);
  file = fd;
  if (used + count > room) kept = realloc(kept, room = 2 * (used + count));
  memcpy(kept + used, bytes, count);
  used += count;
  pthread_mutex_unlock(&lock);
  return count;
}

static int synced(int fd, const char *name) {
  int (*real)(int) = dlsym(RTLD_NEXT, name);
  ssize_t (*put)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
  if (fd == file) {
    pthread_mutex_lock(&lock);
    for (size_t done = 0; done < used;) {
      ssize_t count = put(fd, kept + done, used - done);
      if (count < 0) abort();
      done += count;
    }
    used = 0;
    pthread_mutex_unlock(&lock);
  }
  return real(fd);
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }
