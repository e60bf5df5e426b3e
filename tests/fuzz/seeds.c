/* seeds.c - with libFuzzer: put the seeds into the corpus (the first folder of the command line)
 * before it is read. */
#include "tests/fuzz/fuzz.h"

#include <sys/stat.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);

static int seed_count;

static void write_seed(void *ctx, const void *bytes, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/seed-%03d", (const char *)ctx, seed_count++);
    FILE *f = fopen(path, "w");
    CLAIM(f);
    CLAIM(fwrite(bytes, 1, size, f) == size);
    CLAIM(fclose(f) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct stat st;
    for (int i = 1; i < *argc; i++) {
        if ((*argv)[i][0] == '-' || stat((*argv)[i], &st) || !S_ISDIR(st.st_mode)) continue;
        fuzz_seeds(write_seed, (*argv)[i]);
        break;
    }
    return 0;
}
