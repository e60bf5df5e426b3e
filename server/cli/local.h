/* local.h - a .jvdb file named on the command line, for commands that work without a server. */
#ifndef SERVER_CLI_LOCAL_H
#define SERVER_CLI_LOCAL_H

#include "storage/types.h"

struct local_file {
    int dir_fd;                    /* of the directory that it is in */
    char name[NAME_BYTES_MAX + 1]; /* of the database: the file without ".jvdb" */
};

/* ERR_INVALID_REQUEST (no such name), ERR_IO. */
MUST_CHECK enum err_code local_file_open(const char *path, struct local_file *out, struct err *err);
void local_file_close(struct local_file *file);

#endif
