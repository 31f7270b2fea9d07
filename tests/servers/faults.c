/* Makes system calls on one file fail, or on sockets, in a process that has LD_PRELOAD. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char armed[16];
static int code, first, once, calls;
static unsigned long device, inode;

/* From now on, this call fails with this errno, beginning with the call of this number. If the
   number is negative, or the call is on sockets, which others need too, only one call fails. An
   inode of 0 stands for all files. */
void fault_arm(const char *name, int error, int number, unsigned long dev, unsigned long ino)
{
    armed[0] = 0;
    once = number < 0 || strstr(name, "sock") != NULL;
    code = error, first = number < 0 ? -number : number, device = dev, inode = ino;
    __atomic_store_n(&calls, 0, __ATOMIC_SEQ_CST);
    strncpy(armed, name, sizeof armed - 1);
}

/* Never again. How many calls have failed. */
int fault_disarm(void)
{
    int failed = __atomic_load_n(&calls, __ATOMIC_SEQ_CST) - first + 1;
    armed[0] = 0;
    return failed < 0 ? 0 : failed;
}

#define REAL(name, ...) ((name##_type)dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

typedef int (*fstat64_type)(int, struct stat64 *);

static int fails(const char *name, int fd)
{
    struct stat64 status;
    if (strcmp(armed, name) != 0)
        return 0;
    if (fd >= 0 && inode && (REAL(fstat64, fd, &status) || status.st_dev != device || status.st_ino != inode))
        return 0;
    int number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (once ? number != first : number < first)
        return 0;
    if (once || number == first)
        write(2, "a call has failed\n", 18);
    errno = code;
    return 1;
}

#define FAULT(type, call, name, fd, parameters, arguments)                                         \
    typedef type(*name##_type) parameters;                                                         \
    type name parameters                                                                           \
    {                                                                                              \
        return fails(call, fd) ? -1 : ((name##_type)dlsym(RTLD_NEXT, #name))arguments;             \
    }

int fstat64(int fd, struct stat64 *status)
{
    return fails("fstat", fd) ? -1 : REAL(fstat64, fd, status);
}

FAULT(ssize_t, "read", read, fd, (int fd, void *to, size_t size), (fd, to, size))
FAULT(ssize_t, "pread", pread64, fd, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
FAULT(ssize_t, "preadv", preadv64v2, fd,
      (int fd, const struct iovec *to, int count, off64_t at, int flags),
      (fd, to, count, at, flags))
FAULT(ssize_t, "sendfile", sendfile64, in, (int out, int in, off64_t *at, size_t size),
      (out, in, at, size))
FAULT(off64_t, "lseek", lseek64, fd, (int fd, off64_t at, int whence), (fd, at, whence))
FAULT(int, "setsockopt", setsockopt, -1,
      (int fd, int level, int name, const void *value, socklen_t size),
      (fd, level, name, value, size))
FAULT(int, "socketpair", socketpair, -1, (int domain, int type, int protocol, int pair[2]),
      (domain, type, protocol, pair))
FAULT(int, "epoll_create", epoll_create1, -1, (int flags), (flags))
FAULT(int, "epoll_ctl", epoll_ctl, -1, (int epoll, int what, int fd, struct epoll_event *event),
      (epoll, what, fd, event))
FAULT(int, "dup2", dup2, -1, (int from, int to), (from, to))
FAULT(int, "dup2", dup3, -1, (int from, int to, int flags), (from, to, flags))
FAULT(int, "socket", socket, -1, (int domain, int type, int protocol), (domain, type, protocol))

typedef int (*fcntl64_type)(int, int, ...);

int fcntl64(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) && fails("dup", fd))
        return -1;
    return REAL(fcntl64, fd, command, argument);
}
