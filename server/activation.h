/*
 * activation.h - a listening socket that somebody else has opened: systemd's socket activation.
 *
 * The protocol is that of sd_listen_fds(3): LISTEN_PID names the process that is meant, LISTEN_FDS
 * says how many descriptors it has got, from 3 on.
 */
#ifndef SERVER_ACTIVATION_H
#define SERVER_ACTIVATION_H

#include "storage/base/err.h"

/* The socket that was passed in, or -1 without one; owned by the caller, closed on exec.  The
 * variables leave the environment, so that it is found once.  ERR_INVALID_REQUEST: more than one,
 * or it is not a listening TCP socket.  Main thread, before there are others. */
MUST_CHECK enum err_code activation_take(int *fd, struct err *err);

#endif
