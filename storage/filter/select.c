/* select.c - no filter can be made yet, so none comes here. */
#include "storage/filter/filter.h"

enum err_code filter_select(struct reader *r, const struct filter *filter, bool may_block,
                            uint64_t *bits, uint64_t *count, struct err *err)
{
    (void)r, (void)filter, (void)may_block, (void)bits, (void)count;
    return err_set(err, ERR_INTERNAL, "filters are not there yet");
}
