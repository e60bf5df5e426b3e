#include "storage/region.h"

enum {
    SMALL_UNITS = 8, /* extents of one unit                        */
    CLASS_MAX = 13,  /* log2 of the unit from which sizes are equal */
    LAST_CLASS_EXTENT = 8 * (CLASS_MAX - 2),
    INDEX_CELL_ALIGN = 64,
    INDEX_UNIT_SHIFT_MIN = 6, /* 64 cells of a multiple of 64 bytes are whole blocks */
};

static void set_unit(struct region_shape *s, uint32_t shift_min, uint64_t unit_bytes_min)
{
    s->unit_shift = shift_min;
    while ((s->cell_bytes << s->unit_shift) < unit_bytes_min)
        s->unit_shift++;
    s->unit_cells = 1u << s->unit_shift;
}

static void shape_init(struct region_shape *s, const char *name, bool is_mutable,
                       uint64_t cell_bytes, uint64_t unit_bytes_min)
{
    *s = (struct region_shape){.name = name, .is_mutable = is_mutable, .cell_bytes = cell_bytes};
    set_unit(s, 0, unit_bytes_min);
}

void region_shapes(struct region_shape shapes[REGION_COUNT], uint32_t dimension)
{
    uint64_t row_bytes = ((uint64_t)dimension * 4 + 63) & ~(uint64_t)63;
    shape_init(&shapes[REGION_VECTORS], "vectors", false, row_bytes, UNIT_BYTES_MIN);
    shape_init(&shapes[REGION_RECORDS], "records", false, 1, UNIT_BYTES_MIN);
    shape_init(&shapes[REGION_SLOTS], "slots", true, sizeof(struct slot), UNIT_BYTES_MIN);
    shape_init(&shapes[REGION_ID_INDEX], "id_index", true, BLOCK_BYTES, UNIT_BYTES_MIN);
    /* One block of checksums covers 4 MiB of file. */
    shape_init(&shapes[REGION_SUMS], "sums", true, sizeof(uint32_t), BLOCK_BYTES);
    shapes[REGION_CODES] = (struct region_shape){.name = "codes"};
    shapes[REGION_LINKS] = (struct region_shape){.name = "links"};
}

bool region_set_cell_bytes(struct region_shape *shape, uint64_t cell_bytes)
{
    if (cell_bytes == 0 || cell_bytes % INDEX_CELL_ALIGN || cell_bytes > INDEX_CELL_BYTES_MAX)
        return false;
    shape->cell_bytes = cell_bytes;
    set_unit(shape, INDEX_UNIT_SHIFT_MIN, UNIT_BYTES_MIN);
    return true;
}

/* The extent that holds `unit`, its first unit, and the log2 of its units. */
static uint32_t unit_extent(uint64_t unit, uint64_t *first, uint32_t *units_shift)
{
    uint32_t extent;
    if (unit < SMALL_UNITS) {
        *units_shift = 0;
        extent = (uint32_t)unit;
    } else if (unit < 1u << CLASS_MAX) {
        uint32_t k = 63u - (uint32_t)__builtin_clzll(unit);
        *units_shift = k - 3;
        extent = 8 * (k - 2) + (uint32_t)((unit - (1ull << k)) >> *units_shift);
    } else {
        *units_shift = CLASS_MAX - 3;
        extent = LAST_CLASS_EXTENT + (uint32_t)((unit - (1ull << CLASS_MAX)) >> *units_shift);
    }
    *first = unit >> *units_shift << *units_shift;
    return extent;
}

struct region_place region_place(const struct region_shape *shape, uint64_t cell)
{
    uint64_t first;
    uint32_t units_shift;
    uint32_t extent = unit_extent(cell >> shape->unit_shift, &first, &units_shift);
    return (struct region_place){
        .extent = extent,
        .offset = (cell - (first << shape->unit_shift)) * shape->cell_bytes,
    };
}

static uint32_t extent_units_shift(uint32_t extent)
{
    if (extent < SMALL_UNITS) return 0;
    if (extent >= LAST_CLASS_EXTENT) return CLASS_MAX - 3;
    return extent / 8 - 1;
}

uint64_t region_extent_bytes(const struct region_shape *shape, uint32_t extent)
{
    uint64_t cells = (uint64_t)shape->unit_cells << extent_units_shift(extent);
    return (cells * shape->cell_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
}

uint64_t region_capacity(const struct region_shape *shape, uint32_t extent_count)
{
    uint64_t units;
    if (extent_count <= SMALL_UNITS) {
        units = extent_count;
    } else if (extent_count < LAST_CLASS_EXTENT) {
        uint32_t shift = extent_units_shift(extent_count);
        units = (8ull << shift) + ((uint64_t)(extent_count % 8) << shift);
    } else {
        units =
            (1ull << CLASS_MAX) + ((uint64_t)(extent_count - LAST_CLASS_EXTENT) << (CLASS_MAX - 3));
    }
    return units << shape->unit_shift;
}

uint64_t region_run(const struct region_shape *shape, uint64_t cell)
{
    uint64_t first;
    uint32_t units_shift;
    unit_extent(cell >> shape->unit_shift, &first, &units_shift);
    return ((first + (1ull << units_shift)) << shape->unit_shift) - cell;
}
