/* activation.c - see activation.h. */
#include "server/activation.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FIRST_FD = 3 };

/* A number and nothing else; -1 otherwise. */
static long activation_number(const char *name)
{
    const char *text = getenv(name);
    char *end = NULL;

    if (!text || *text < '0' || *text > '9') return -1;
    errno = 0;
    long n = strtol(text, &end, 10);
    return errno || *end ? -1 : n;
}

static bool activation_listens(int fd)
{
    struct sockaddr_storage addr = {0};
    int type = 0, listens = 0;
    socklen_t bytes = sizeof type;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) != 0 || type != SOCK_STREAM)
        return false;
    bytes = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes) != 0 || !listens) return false;
    bytes = sizeof addr;
    if (getsockname(fd, (struct sockaddr *)&addr, &bytes) != 0) return false;
    return addr.ss_family == AF_INET || addr.ss_family == AF_INET6;
}

enum err_code activation_take(int *fd, struct err *err)
{
    bool is_meant = activation_number("LISTEN_PID") == (long)getpid();
    long count = activation_number("LISTEN_FDS");

    *fd = -1;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    if (!is_meant || count == 0) return ERR_OK;
    if (count != 1)
        return err_set(err, ERR_INVALID_REQUEST,
                       "LISTEN_FDS: exactly one socket can be passed in (one ListenStream= in the "
                       ".socket unit)");
    if (!activation_listens(FIRST_FD))
        return err_set(err, ERR_INVALID_REQUEST,
                       "LISTEN_FDS: descriptor %d is not a listening TCP socket", FIRST_FD);
    /* Both may be unset: the flags are whatever the sender had. */
    int flags = fcntl(FIRST_FD, F_GETFL);
    if (flags < 0 || fcntl(FIRST_FD, F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(FIRST_FD, F_SETFD, FD_CLOEXEC) != 0)
        return err_os(err, errno, "LISTEN_FDS: cannot set up descriptor %d", FIRST_FD);
    *fd = FIRST_FD;
    return ERR_OK;
}
