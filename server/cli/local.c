#include "server/cli/local.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "storage/base/mem.h"

enum err_code local_file_open(const char *path, struct local_file *out, struct err *err)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t len = strlen(base);
    struct err bad;
    *out = (struct local_file){.dir_fd = -1};
    if (len <= 5 || strcmp(base + len - 5, ".jvdb") != 0 ||
        database_name_check(base, len - 5, &bad))
        return err_set(err, ERR_INVALID_REQUEST, "\"%.200s\" is not the name of a .jvdb file",
                       path);
    memcpy(out->name, base, len - 5);

    char *directory = mem_strdup(slash ? path : ".");
    if (slash) directory[slash == path ? 1 : slash - path] = '\0';
    out->dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int os_errno = out->dir_fd < 0 ? errno : 0;
    mem_free(directory);
    return os_errno ? err_os(err, os_errno, "cannot open the directory of %.200s", path) : ERR_OK;
}

void local_file_close(struct local_file *file)
{
    if (file->dir_fd >= 0) close(file->dir_fd);
    file->dir_fd = -1;
}
