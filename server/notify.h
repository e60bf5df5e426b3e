/* notify.h - one-line messages to the service manager (the sd_notify protocol).  Any thread. */
#ifndef SERVER_NOTIFY_H
#define SERVER_NOTIFY_H

#include <stdint.h>

/* Send e.g. "READY=1\nSTATUS=..." to $NOTIFY_SOCKET; nothing happens without one. */
void notify_send(const char *state);

/* The interval after which the manager gives up on us without WATCHDOG=1; 0: it does not watch. */
uint64_t notify_watchdog_us(void);

#endif
