/* kernel.c - which kernels there are on this machine, and the one to use. */
#include "storage/kernel/kernel.h"

#include <stdatomic.h>

/* clang-format off */
const struct kernel_set *const kernel_sets[] = {
#if defined(__x86_64__)
    &kernel_avx512vnni,
    &kernel_avx512,
    &kernel_avxvnni,
    &kernel_avx2,
#elif defined(__aarch64__)
    &kernel_neondot,
    &kernel_neon,
#endif
    &kernel_scalar,
    NULL,
};
/* clang-format on */

const struct kernel_set *kernel_best(void)
{
    /* Threads that race here find the same answer; the sets are constant. */
    static _Atomic(const struct kernel_set *) best;
    const struct kernel_set *set = atomic_load_explicit(&best, memory_order_relaxed);
    if (!set) {
        size_t i = 0;
        while (!kernel_sets[i]->supported())
            i++;
        set = kernel_sets[i];
        atomic_store_explicit(&best, set, memory_order_relaxed);
    }
    return set;
}
