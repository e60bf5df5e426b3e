/* The formula of extents: the parts of it agree, and nothing is wasted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "storage/region.h"

enum { EXTENTS = 400 };

static const uint32_t dimensions[] = {1, 3, 16, 17, 384, 768, 1000, 4096, 5000, 65536};

static const struct region_shape *shapes_of_check; /* all of which one is checked */

static void for_each_shape(void (*check)(const struct region_shape *shape))
{
    for (size_t d = 0; d < sizeof dimensions / sizeof dimensions[0]; d++) {
        struct region_shape shapes[REGION_COUNT];
        region_shapes(shapes, dimensions[d]);
        assert_true(region_set_cell_bytes(&shapes[REGION_CODES], (dimensions[d] + 127) / 64 * 64));
        assert_true(region_set_cell_bytes(&shapes[REGION_LINKS], 64 + d * 64));
        shapes_of_check = shapes;
        for (int r = 0; r < REGION_COUNT; r++)
            check(&shapes[r]);
    }
}

static void check_ends(const struct region_shape *s)
{
    uint64_t first = 0;
    for (uint32_t e = 0; e < EXTENTS; e++) {
        uint64_t end = region_capacity(s, e + 1);
        assert_true(end > first);
        assert_int_equal(first, region_capacity(s, e));
        struct region_place place = region_place(s, first);
        assert_int_equal(place.extent, e);
        assert_int_equal(place.offset, 0);
        place = region_place(s, end - 1);
        assert_int_equal(place.extent, e);
        assert_int_equal(place.offset, (end - 1 - first) * s->cell_bytes);
        assert_int_equal(region_run(s, first), end - first);
        assert_int_equal(region_run(s, end - 1), 1);
        first = end;
    }
}

static void place_capacity_and_run_agree_at_the_ends_of_every_extent(void **state)
{
    (void)state;
    for_each_shape(check_ends);
}

static void check_middle(const struct region_shape *s)
{
    uint64_t all = region_capacity(s, EXTENTS);
    for (uint64_t cell = 0; cell < all; cell += all / 5000 + 1) {
        struct region_place place = region_place(s, cell);
        uint64_t first = region_capacity(s, place.extent);
        uint64_t end = region_capacity(s, place.extent + 1);
        assert_true(first <= cell && cell < end);
        assert_int_equal(place.offset, (cell - first) * s->cell_bytes);
        assert_int_equal(region_run(s, cell), end - cell);
    }
}

static void cells_lie_side_by_side_in_their_extent(void **state)
{
    (void)state;
    for_each_shape(check_middle);
}

static void check_size(const struct region_shape *s)
{
    for (uint32_t e = 0; e < EXTENTS; e++) {
        uint64_t cells = region_capacity(s, e + 1) - region_capacity(s, e);
        uint64_t bytes = region_extent_bytes(s, e);
        assert_int_equal(bytes % BLOCK_BYTES, 0);
        assert_true(cells * s->cell_bytes <= bytes);
        assert_true(bytes - cells * s->cell_bytes < BLOCK_BYTES);
    }
}

static void an_extent_is_whole_blocks_and_holds_its_cells(void **state)
{
    (void)state;
    for_each_shape(check_size);
}

static void check_waste(const struct region_shape *s)
{
    for (uint32_t e = 0; e < EXTENTS; e++) {
        uint64_t used = region_capacity(s, e) + 1; /* just one cell in extent e */
        uint64_t spare = region_capacity(s, e + 1) - used;
        assert_true(spare <= used / 8 + s->unit_cells);
    }
}

static void at_most_an_eighth_and_one_unit_is_spare(void **state)
{
    (void)state;
    for_each_shape(check_waste);
}

static void check_unit(const struct region_shape *s)
{
    assert_true(s->unit_cells && !(s->unit_cells & (s->unit_cells - 1)));
    assert_int_equal(s->unit_cells, 1u << s->unit_shift);
    uint64_t bytes_min = strcmp(s->name, "sums") == 0 ? BLOCK_BYTES : UNIT_BYTES_MIN;
    uint64_t unit = s->unit_cells * s->cell_bytes;
    assert_true(unit >= bytes_min);
    uint32_t least = region_is_index((enum region_id)(s - shapes_of_check)) ? 64 : 1;
    assert_true(s->unit_cells == least || unit / 2 < bytes_min);
    assert_true(strlen(s->name) < sizeof((struct disk_region *)0)->name);
}

static void a_unit_is_the_least_power_of_two_that_fills_its_bytes(void **state)
{
    (void)state;
    for_each_shape(check_unit);
}

static void rows_are_padded_to_whole_cache_lines(void **state)
{
    (void)state;
    for (uint32_t dimension = 1; dimension <= 2000; dimension++) {
        struct region_shape shapes[REGION_COUNT];
        region_shapes(shapes, dimension);
        uint64_t bytes = shapes[REGION_VECTORS].cell_bytes;
        assert_int_equal(bytes % 64, 0);
        assert_true(bytes >= dimension * 4 && bytes < dimension * 4 + 64);
    }
}

/* What is on disk: a change of the formula is a new format version. */
static void the_formula_is_the_one_of_format_version_2(void **state)
{
    (void)state;
    struct region_shape shapes[REGION_COUNT];
    region_shapes(shapes, 384);
    assert_int_equal(FORMAT_VERSION, 2);
    const struct region_shape *v = &shapes[REGION_VECTORS];
    assert_int_equal(v->cell_bytes, 1536);
    assert_int_equal(v->unit_cells, 16);
    assert_int_equal(region_extent_bytes(v, 0), 24576);
    assert_int_equal(region_extent_bytes(v, 15), 24576);
    assert_int_equal(region_extent_bytes(v, 16), 2 * 24576);
    assert_int_equal(region_extent_bytes(v, 87), 512 * 24576);
    assert_int_equal(region_extent_bytes(v, 88), 1024 * 24576);
    assert_int_equal(region_extent_bytes(v, 300), 1024 * 24576);
    assert_int_equal(region_capacity(v, 88), 8192 * 16);
    assert_int_equal(shapes[REGION_SLOTS].unit_cells, 256);
    assert_int_equal(shapes[REGION_ID_INDEX].unit_cells, 4);
    assert_int_equal(shapes[REGION_RECORDS].unit_cells, 16384);
    assert_int_equal(shapes[REGION_SUMS].unit_cells, 1024);
    assert_int_equal(shapes[REGION_CODES].cell_bytes, 0);
    assert_true(region_set_cell_bytes(&shapes[REGION_CODES], 448));
    assert_int_equal(shapes[REGION_CODES].unit_cells, 64);
    assert_true(region_set_cell_bytes(&shapes[REGION_LINKS], 128));
    assert_int_equal(shapes[REGION_LINKS].unit_cells, 128);
    assert_false(shapes[REGION_LINKS].is_mutable);
}

static void cells_of_the_index_leave_no_gaps_between_extents(void **state)
{
    (void)state;
    struct region_shape s = {.name = "codes"};
    for (uint64_t bytes = 64; bytes <= INDEX_CELL_BYTES_MAX; bytes += bytes < 8192 ? 64 : 4032) {
        assert_true(region_set_cell_bytes(&s, bytes));
        assert_true(s.unit_cells >= 64 && s.unit_cells * bytes >= UNIT_BYTES_MIN);
        for (uint32_t e = 0; e < 100; e += 9)
            assert_int_equal(region_extent_bytes(&s, e),
                             (region_capacity(&s, e + 1) - region_capacity(&s, e)) * bytes);
    }
}

static void impossible_cells_of_the_index_are_refused(void **state)
{
    (void)state;
    struct region_shape s = {.name = "links"};
    assert_false(region_set_cell_bytes(&s, 0));
    assert_false(region_set_cell_bytes(&s, 63));
    assert_false(region_set_cell_bytes(&s, 96));
    assert_false(region_set_cell_bytes(&s, INDEX_CELL_BYTES_MAX + 64));
    assert_false(region_set_cell_bytes(&s, UINT64_MAX / 64 * 64));
    assert_int_equal(s.cell_bytes, 0);
    assert_true(region_set_cell_bytes(&s, INDEX_CELL_BYTES_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(place_capacity_and_run_agree_at_the_ends_of_every_extent),
        cmocka_unit_test(cells_lie_side_by_side_in_their_extent),
        cmocka_unit_test(an_extent_is_whole_blocks_and_holds_its_cells),
        cmocka_unit_test(at_most_an_eighth_and_one_unit_is_spare),
        cmocka_unit_test(a_unit_is_the_least_power_of_two_that_fills_its_bytes),
        cmocka_unit_test(rows_are_padded_to_whole_cache_lines),
        cmocka_unit_test(the_formula_is_the_one_of_format_version_2),
        cmocka_unit_test(cells_of_the_index_leave_no_gaps_between_extents),
        cmocka_unit_test(impossible_cells_of_the_index_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
