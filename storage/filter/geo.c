#include "storage/filter/geo.h"

#include <math.h>

#define EARTH_RADIUS_M 6371008.8 /* mean radius R1 of the WGS 84 ellipsoid */
#define RADIANS        0.017453292519943295

bool geo_point_is_valid(const struct geo_point *p)
{
    return p->lat >= -90 && p->lat <= 90 && p->lon >= -180 && p->lon <= 180;
}

void geo_circle_init(struct geo_circle *c, struct geo_point center, double meters)
{
    *c = (struct geo_circle){.center = center, .meters = meters};
    c->cos_lat = cos(center.lat * RADIANS);
    /* A little wider than it is: the formula below rounds, too. */
    double reach = meters / EARTH_RADIUS_M * (1 + 1e-9) + 1e-9;
    c->lat_min = center.lat - reach / RADIANS;
    c->lat_max = center.lat + reach / RADIANS;
    c->lon_reach = 360;
    /* Unless a pole is in it, the meridians that touch it are at asin(sin reach / cos lat). */
    if (c->lat_min > -90 && c->lat_max < 90 && reach < 1.5)
        c->lon_reach = asin(fmin(1, sin(reach) / c->cos_lat)) / RADIANS * (1 + 1e-9) + 1e-9;
}

bool geo_circle_has(const struct geo_circle *c, const struct geo_point *p)
{
    if (p->lat < c->lat_min || p->lat > c->lat_max) return false;
    double east = fabs(p->lon - c->center.lon);
    if (east > 180) east = 360 - east;
    if (east > c->lon_reach) return false;
    double sin_lat = sin((p->lat - c->center.lat) * RADIANS / 2), sin_lon = sin(east * RADIANS / 2);
    double h = sin_lat * sin_lat + c->cos_lat * cos(p->lat * RADIANS) * sin_lon * sin_lon;
    return 2 * EARTH_RADIUS_M * asin(fmin(1, sqrt(h))) <= c->meters;
}

bool geo_box_has(const struct geo_box *b, const struct geo_point *p)
{
    if (p->lat > b->top || p->lat < b->bottom) return false;
    if (b->left <= b->right) return p->lon >= b->left && p->lon <= b->right;
    return p->lon >= b->left || p->lon <= b->right;
}
