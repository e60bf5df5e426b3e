/* test_tls.c - what a handshake gets, and what a file that cannot be used leaves as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <gnutls/abstract.h>
#include <gnutls/x509.h>
#include <time.h>
#include <unistd.h>

#include "server/tls.h"

static char dir[] = "/tmp/test_tls.XXXXXX", cert_path[64], key_path[64];

static void write_file(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
}

/* A new key with a certificate of its own, in the two files, or in one of them alone. */
static void make_pair(unsigned char serial, bool with_cert, bool with_key)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t cert;
    gnutls_datum_t pem;

    assert_int_equal(gnutls_x509_privkey_init(&key), 0);
    assert_int_equal(gnutls_x509_privkey_generate(
                         key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
                     0);
    assert_int_equal(gnutls_x509_crt_init(&cert), 0);
    assert_int_equal(gnutls_x509_crt_set_version(cert, 3), 0);
    assert_int_equal(gnutls_x509_crt_set_serial(cert, &serial, 1), 0);
    assert_int_equal(gnutls_x509_crt_set_activation_time(cert, time(NULL) - 60), 0);
    assert_int_equal(gnutls_x509_crt_set_expiration_time(cert, time(NULL) + 3600), 0);
    assert_int_equal(gnutls_x509_crt_set_dn(cert, "CN=test", NULL), 0);
    assert_int_equal(gnutls_x509_crt_set_key(cert, key), 0);
    assert_int_equal(gnutls_x509_crt_sign2(cert, cert, key, GNUTLS_DIG_SHA256, 0), 0);
    if (with_cert) {
        assert_int_equal(gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &pem), 0);
        write_file(cert_path, pem.data, pem.size);
        gnutls_free(pem.data);
    }
    if (with_key) {
        assert_int_equal(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem), 0);
        write_file(key_path, pem.data, pem.size);
        gnutls_free(pem.data);
    }
    gnutls_x509_crt_deinit(cert);
    gnutls_x509_privkey_deinit(key);
}

/* The serial number of the certificate that a handshake gets now; -1: none. */
static int serial_now(void)
{
    gnutls_certificate_retrieve_function2 *retrieve =
        (gnutls_certificate_retrieve_function2 *)(uintptr_t)tls_certificate();
    gnutls_pcert_st *chain = NULL;
    gnutls_privkey_t key = NULL;
    gnutls_x509_crt_t cert;
    unsigned count = 0;
    unsigned char serial[32] = {0};
    size_t bytes = sizeof serial;

    if (retrieve(NULL, NULL, 0, NULL, 0, &chain, &count, &key) != 0) return -1;
    assert_non_null(key);
    assert_int_equal(count, 1);
    assert_int_equal(gnutls_pcert_export_x509(chain, &cert), 0);
    assert_int_equal(gnutls_x509_crt_get_serial(cert, serial, &bytes), 0);
    gnutls_x509_crt_deinit(cert);
    return serial[bytes - 1];
}

static void a_reload_brings_the_new_pair(void **state)
{
    struct tls *tls = NULL;
    struct err err;

    (void)state;
    assert_int_equal(serial_now(), -1);
    make_pair(1, true, true);
    assert_int_equal(tls_load(cert_path, key_path, &tls, &err), ERR_OK);
    assert_int_equal(serial_now(), 1);
    make_pair(2, true, true);
    assert_int_equal(serial_now(), 1);
    assert_int_equal(tls_reload(tls, &err), ERR_OK);
    assert_int_equal(serial_now(), 2);
    tls_free(tls);
    assert_int_equal(serial_now(), -1);
}

static void what_cannot_be_used_leaves_the_old_pair(void **state)
{
    struct tls *tls = NULL;
    struct err err;

    (void)state;
    make_pair(1, true, true);
    assert_int_equal(tls_load(cert_path, key_path, &tls, &err), ERR_OK);
    make_pair(2, false, true); /* another key than the certificate's */
    assert_int_equal(tls_reload(tls, &err), ERR_INVALID_REQUEST);
    assert_non_null(strstr(err.msg, "security.tls_key"));
    make_pair(3, true, true);
    write_file(cert_path, "nothing", 7);
    assert_int_equal(tls_reload(tls, &err), ERR_INVALID_REQUEST);
    write_file(cert_path, "", 0);
    assert_int_not_equal(tls_reload(tls, &err), ERR_OK);
    assert_non_null(strstr(err.msg, "security.tls_cert"));
    unlink(key_path);
    make_pair(4, true, false);
    assert_int_not_equal(tls_reload(tls, &err), ERR_OK);
    assert_non_null(strstr(err.msg, key_path));
    assert_int_equal(serial_now(), 1);
    tls_free(tls);
}

static void a_first_pair_that_cannot_be_used_is_none(void **state)
{
    struct tls *tls = NULL;
    struct err err;

    (void)state;
    make_pair(1, true, true);
    make_pair(2, true, false);
    assert_int_equal(tls_load(cert_path, key_path, &tls, &err), ERR_INVALID_REQUEST);
    assert_null(tls);
    assert_int_equal(serial_now(), -1);
    tls_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reload_brings_the_new_pair),
        cmocka_unit_test(what_cannot_be_used_leaves_the_old_pair),
        cmocka_unit_test(a_first_pair_that_cannot_be_used_is_none),
    };
    if (!mkdtemp(dir)) return 1;
    snprintf(cert_path, sizeof cert_path, "%s/crt", dir);
    snprintf(key_path, sizeof key_path, "%s/key", dir);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(cert_path);
    unlink(key_path);
    rmdir(dir);
    return failed;
}
