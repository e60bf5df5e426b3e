/* crc32c.h - CRC-32C (Castagnoli, reflected, as in RFC 3720), hardware-assisted where it is. */
#ifndef STORAGE_BASE_CRC32C_H
#define STORAGE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Extend `crc` (0 to begin) by `len` bytes: crc32c(crc32c(0, a), b) == crc32c(0, ab).
 * Any thread. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/* The same without special instructions: for CPUs that lack them, and for tests. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len);

#endif
