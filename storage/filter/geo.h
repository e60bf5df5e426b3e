/* geo.h - points on the earth: {"lat": degrees, "lon": degrees}.  Pure functions.  Any thread. */
#ifndef STORAGE_FILTER_GEO_H
#define STORAGE_FILTER_GEO_H

#include <stdbool.h>

struct geo_point {
    double lat; /* -90 .. 90 */
    double lon; /* -180 .. 180 */
};

bool geo_point_is_valid(const struct geo_point *p);

/* All within `meters` of `center`, along great circles of a sphere with the earth's mean radius
 * (the haversine formula; off by up to 0.5% from the ellipsoid). */
struct geo_circle {
    struct geo_point center;
    double meters;
    /* Of the smallest box around it, for a quick no; geo_circle_init(). */
    double lat_min, lat_max, lon_reach;
    double cos_lat;
};
void geo_circle_init(struct geo_circle *c, struct geo_point center, double meters);
bool geo_circle_has(const struct geo_circle *c, const struct geo_point *p);

/* From west to east; across the 180th meridian if left > right. */
struct geo_box {
    double top, left, bottom, right;
};
bool geo_box_has(const struct geo_box *b, const struct geo_point *p);

#endif
