/*
 * kernel_parts.h - the functions of a set that lie in another file than its table.
 *
 * Private to storage/kernel.  kernel_<set>.c has the exact distances and the table,
 * kernel_<set>_codes.c and so on have the rest.
 */
#ifndef STORAGE_KERNEL_KERNEL_PARTS_H
#define STORAGE_KERNEL_KERNEL_PARTS_H

#include "storage/kernel/kernel.h"

typedef uint32_t kernel_pool_fn(struct pool *pool, const uint32_t *ids, const float *distances,
                                size_t count);
typedef void kernel_transform_fn(float *x, size_t n);

kernel_codes_fn scalar_dot_u8s8, scalar_dot_u1s8;
kernel_floats_fn scalar_dot_f32, scalar_l2sq_f32, scalar_l1_f32;
kernel_pool_fn scalar_pool_offer;
kernel_transform_fn scalar_hadamard;

kernel_codes_fn avx2_dot_u8s8, avx2_dot_u1s8, avxvnni_dot_u8s8, avxvnni_dot_u1s8;
kernel_floats_fn avx2_dot_f32, avx2_l2sq_f32, avx2_l1_f32;
kernel_pool_fn avx2_pool_offer;
kernel_transform_fn avx2_hadamard;

kernel_codes_fn avx512_dot_u8s8, avx512_dot_u1s8, avx512vnni_dot_u8s8, avx512vnni_dot_u1s8;
kernel_floats_fn avx512_dot_f32, avx512_l2sq_f32, avx512_l1_f32;
kernel_pool_fn avx512_pool_offer;
kernel_transform_fn avx512_hadamard;

kernel_codes_fn neon_dot_u8s8, neon_dot_u1s8, neondot_dot_u8s8, neondot_dot_u1s8;
kernel_floats_fn neon_dot_f32, neon_l2sq_f32, neon_l1_f32;
kernel_pool_fn neon_pool_offer;
kernel_transform_fn neon_hadamard;

#endif
