/* smoke.c - a fuzzer as a unit test: its seeds and a few mutants of each, always the same. */
#include "tests/fuzz/fuzz.h"

enum { MUTANTS = 6, SIZE_MAX_OF_MUTANT = 16 * 1024 };

#pragma weak LLVMFuzzerCustomMutator

static uint64_t state = 1;
static int seed_count;

/* SplitMix64 (Steele, Lea, Flood, 2014). */
static uint64_t next_random(void)
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A byte changed, or the end cut off, or a part doubled. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max)
{
    if (size == 0) return 0;
    size_t at = next_random() % size, len = size - at;
    switch (next_random() % 4) {
    case 0:
        return at;
    case 1:
        if (len > size_max - size) return size;
        memmove(data + at + len, data + at, len);
        return size + len;
    default:
        data[at] = (uint8_t)next_random();
        return size;
    }
}

static void run(void *ctx, const void *bytes, size_t size)
{
    (void)ctx;
    uint8_t *mutant = malloc(SIZE_MAX_OF_MUTANT);
    CLAIM(mutant && size <= SIZE_MAX_OF_MUTANT);
    seed_count++;
    LLVMFuzzerTestOneInput(bytes, size);
    for (int i = 0; i < MUTANTS; i++) {
        size_t len = size;
        if (size) memcpy(mutant, bytes, size);
        if (LLVMFuzzerCustomMutator)
            len = LLVMFuzzerCustomMutator(mutant, len, SIZE_MAX_OF_MUTANT, (unsigned)next_random());
        else
            len = LLVMFuzzerMutate(mutant, len, SIZE_MAX_OF_MUTANT);
        uint8_t *exact = malloc(len ? len : 1);
        CLAIM(exact);
        memcpy(exact, mutant, len);
        LLVMFuzzerTestOneInput(exact, len);
        free(exact);
    }
    free(mutant);
}

int main(void)
{
    fuzz_seeds(run, NULL);
    CLAIM(seed_count > 0);
    printf("[  PASSED  ] %d test(s).\n", seed_count); /* as cmocka says it */
    return 0;
}
