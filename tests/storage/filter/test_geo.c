/* Circles and boxes on the earth. */
#include "tests/storage/fixture.h"

#include "storage/filter/geo.h"

static const struct geo_point berlin = {52.52, 13.405}, paris = {48.8566, 2.3522},
                              fiji = {-17.7134, 178.065}, samoa = {-13.759, -172.1046};

static bool is_within(struct geo_point a, struct geo_point b, double meters)
{
    struct geo_circle c;
    geo_circle_init(&c, a, meters);
    bool result = geo_circle_has(&c, &b);
    geo_circle_init(&c, b, meters);
    assert_int_equal(geo_circle_has(&c, &a), result);
    return result;
}

static void known_distances_come_out(void **state)
{
    (void)state;
    assert_true(is_within(berlin, paris, 878500));
    assert_false(is_within(berlin, paris, 876500));
    /* Across the 180th meridian. */
    assert_true(is_within(fiji, samoa, 1150000));
    assert_false(is_within(fiji, samoa, 1130000));
    assert_true(is_within(berlin, berlin, 0));
    /* Half around the earth is the farthest. */
    struct geo_point antipode = {-berlin.lat, berlin.lon - 180};
    assert_true(is_within(berlin, antipode, 20015200));
    assert_false(is_within(berlin, antipode, 20014000));
}

/* The quick no must never say no to what the formula lets in. */
static void the_box_around_a_circle_holds_all_of_it(void **state)
{
    (void)state;
    uint64_t seed = 5;
    unsigned inside = 0;
    for (int i = 0; i < 300000; i++) {
        struct geo_point center = {test_random_float(&seed) * 90, test_random_float(&seed) * 180};
        struct geo_point p = {test_random_float(&seed) * 90, test_random_float(&seed) * 180};
        if (i % 2) { /* near, also across pole and meridian */
            p.lat = fmax(-90, fmin(90, center.lat + test_random_float(&seed)));
            p.lon = center.lon + test_random_float(&seed) * 2;
            if (p.lon > 180) p.lon -= 360;
            if (p.lon < -180) p.lon += 360;
        }
        double meters =
            i % 2 ? 1e5 * (1 + test_random_float(&seed)) : 1e7 * (1 + test_random_float(&seed));
        struct geo_circle c, wide;
        geo_circle_init(&c, center, meters);
        wide = c;
        wide.lat_min = -90;
        wide.lat_max = 90;
        wide.lon_reach = 360;
        assert_int_equal(geo_circle_has(&c, &p), geo_circle_has(&wide, &p));
        inside += geo_circle_has(&c, &p);
    }
    assert_true(inside > 1000);
}

static void boxes_may_lie_across_the_meridian(void **state)
{
    (void)state;
    struct geo_box europe = {60, -10, 40, 20}, pacific = {0, 170, -30, -160};
    assert_true(geo_box_has(&europe, &berlin) && geo_box_has(&europe, &paris));
    assert_false(geo_box_has(&europe, &fiji));
    assert_true(geo_box_has(&pacific, &fiji) && geo_box_has(&pacific, &samoa));
    assert_false(geo_box_has(&pacific, &berlin));
    struct geo_point corner = {60, -10};
    assert_true(geo_box_has(&europe, &corner));
}

static void points_have_bounds(void **state)
{
    (void)state;
    struct geo_point good = {90, -180}, bad[] = {{90.1, 0}, {0, 180.1}, {NAN, 0}, {0, NAN}};
    assert_true(geo_point_is_valid(&good));
    for (int i = 0; i < 4; i++)
        assert_false(geo_point_is_valid(&bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_distances_come_out),
        cmocka_unit_test(the_box_around_a_circle_holds_all_of_it),
        cmocka_unit_test(boxes_may_lie_across_the_meridian),
        cmocka_unit_test(points_have_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
