/*
 * crc32c.c - CRC-32C by the instruction that x86-64 (SSE4.2) and ARMv8 have for it, else by tables.
 *
 * The instruction takes three cycles and a new one can start every cycle, so long inputs are cut
 * into three stripes that are computed side by side.  CRC is linear: the CRC of A followed by B is
 * shift(crc(A), |B|) ^ crc(B), where shift() appends zero bytes; for the two stripe lengths that
 * are used, shift() is four table look-ups.
 */
#include "storage/base/crc32c.h"

#include <stdbool.h>
#include <string.h>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

enum {
    POLYNOMIAL = (int)0x82f63b78u, /* 0x1edc6f41, reflected */
    /* 3 * 1360 = 4080, so that a page of 4096 bytes is one round; 168 serves rows. */
    STRIPE_LONG = 1360,
    STRIPE_SHORT = 168,
};

/* slice[k][b]: the CRC register after byte b and k zero bytes. */
static uint32_t slice[8][256];

static uint32_t load32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* All raw_*() work on the register itself, without the inversions at both ends. */
static uint32_t raw_table(uint32_t crc, const unsigned char *p, size_t len)
{
    for (; len >= 8; p += 8, len -= 8) {
        const uint32_t a = crc ^ load32(p), b = load32(p + 4);
        crc = slice[7][a & 255] ^ slice[6][a >> 8 & 255] ^ slice[5][a >> 16 & 255] ^
              slice[4][a >> 24] ^ slice[3][b & 255] ^ slice[2][b >> 8 & 255] ^
              slice[1][b >> 16 & 255] ^ slice[0][b >> 24];
    }
    while (len--)
        crc = crc >> 8 ^ slice[0][(crc ^ *p++) & 255];
    return crc;
}

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len)
{
    return ~raw_table(~crc, data, len);
}

#if defined(__x86_64__) || defined(__aarch64__)

#if defined(__x86_64__)

#define CRC_TARGET        __attribute__((target("sse4.2")))
#define STEP64(crc, word) ((uint32_t)__builtin_ia32_crc32di((crc), (word)))
#define STEP8(crc, byte)  __builtin_ia32_crc32qi((crc), (byte))

static bool have_instruction(void)
{
    return __builtin_cpu_supports("sse4.2");
}

#else

/* In assembler, because gcc and clang disagree about how to enable the intrinsics for a function.
 */
#define CRC_TARGET
static inline uint32_t STEP64(uint32_t crc, uint64_t word)
{
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    return crc;
}
static inline uint32_t STEP8(uint32_t crc, uint8_t byte)
{
    __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)byte));
    return crc;
}

static bool have_instruction(void)
{
    return getauxval(AT_HWCAP) & HWCAP_CRC32;
}

#endif

static uint32_t shift_long[4][256], shift_short[4][256];

static uint32_t shift(uint32_t (*table)[256], uint32_t crc)
{
    return table[0][crc & 255] ^ table[1][crc >> 8 & 255] ^ table[2][crc >> 16 & 255] ^
           table[3][crc >> 24];
}

static uint64_t load64(const unsigned char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

CRC_TARGET
static uint32_t raw_stripes(uint32_t crc, const unsigned char *p, size_t stripe,
                            uint32_t (*table)[256])
{
    uint32_t b = 0, c = 0;
    for (const unsigned char *end = p + stripe; p < end; p += 8) {
        crc = STEP64(crc, load64(p));
        b = STEP64(b, load64(p + stripe));
        c = STEP64(c, load64(p + 2 * stripe));
    }
    return shift(table, shift(table, crc) ^ b) ^ c;
}

CRC_TARGET
static uint32_t raw_instruction(uint32_t crc, const unsigned char *p, size_t len)
{
    for (; len >= 3 * STRIPE_LONG; p += 3 * STRIPE_LONG, len -= 3 * STRIPE_LONG)
        crc = raw_stripes(crc, p, STRIPE_LONG, shift_long);
    for (; len >= 3 * STRIPE_SHORT; p += 3 * STRIPE_SHORT, len -= 3 * STRIPE_SHORT)
        crc = raw_stripes(crc, p, STRIPE_SHORT, shift_short);
    for (; len >= 8; p += 8, len -= 8)
        crc = STEP64(crc, load64(p));
    while (len--)
        crc = STEP8(crc, *p++);
    return crc;
}

static void make_shift(uint32_t (*table)[256], size_t zero_bytes)
{
    static const unsigned char zeros[STRIPE_LONG];
    for (unsigned k = 0; k < 4; k++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            const unsigned one = 1u << bit;
            table[k][one] = raw_table((uint32_t)one << 8 * k, zeros, zero_bytes);
            /* Linear: every value below 2 * one is one ^ something below one. */
            for (unsigned v = 1; v < one; v++)
                table[k][one ^ v] = table[k][one] ^ table[k][v];
        }
    }
}

#else

static bool have_instruction(void)
{
    return false;
}
#define raw_instruction               raw_table
#define make_shift(table, zero_bytes) ((void)0)

#endif

static bool use_instruction;

/* Before main(), so that crc32c() needs no synchronisation. */
__attribute__((constructor)) static void prepare(void)
{
    for (unsigned b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? (uint32_t)POLYNOMIAL : 0);
        slice[0][b] = crc;
    }
    for (unsigned k = 1; k < 8; k++) {
        for (unsigned b = 0; b < 256; b++)
            slice[k][b] = slice[k - 1][b] >> 8 ^ slice[0][slice[k - 1][b] & 255];
    }
    make_shift(shift_long, STRIPE_LONG);
    make_shift(shift_short, STRIPE_SHORT);
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    use_instruction = have_instruction();
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    if (!use_instruction) return crc32c_portable(crc, data, len);
    return ~raw_instruction(~crc, data, len);
}
