/*
 * tls.c - see tls.h.
 *
 * A handshake goes on over several calls and looks at the certificate it was given in each, so an
 * identity that is replaced is kept until the end: a few kilobytes for each SIGHUP that brought a
 * new one.
 */
#include "server/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <stdatomic.h>
#include <string.h>

#include "storage/base/file.h"
#include "storage/base/mem.h"

enum { PEM_BYTES_MAX = 1024 * 1024, CHAIN_MAX = 16 };

struct identity {
    struct identity *older;
    gnutls_pcert_st chain[CHAIN_MAX];
    unsigned chain_count;
    gnutls_privkey_t key;
};

struct tls {
    const char *cert_path, *key_path;
    struct identity *newest; /* main thread only */
};

static _Atomic(struct identity *) current;

/* ---- files ---- */

static void pem_free(gnutls_datum_t *pem)
{
    if (pem->data) explicit_bzero(pem->data, pem->size);
    mem_free(pem->data);
    *pem = (gnutls_datum_t){0};
}

static enum err_code pem_read(const char *option, const char *path, gnutls_datum_t *out,
                              struct err *err)
{
    uint64_t bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC), failed = fd < 0 ? errno : 0;

    *out = (gnutls_datum_t){0};
    if (!failed) failed = file_size(fd, &bytes);
    if (!failed && (bytes == 0 || bytes > PEM_BYTES_MAX)) failed = EINVAL;
    if (!failed) {
        out->data = mem_zalloc((size_t)bytes + 1);
        out->size = (unsigned)bytes;
        failed = file_read(fd, out->data, (size_t)bytes, 0);
    }
    file_close(fd);
    return failed ? err_os(err, failed, "security.%s: cannot read %s", option, path) : ERR_OK;
}

/* ---- identities ---- */

static void identity_free(struct identity *id)
{
    if (!id) return;
    for (unsigned i = 0; i < id->chain_count; i++)
        gnutls_pcert_deinit(&id->chain[i]);
    if (id->key) gnutls_privkey_deinit(id->key);
    mem_free(id);
}

/* Does the key belong to the certificate?  0 or an error of GnuTLS. */
static int pair_check(const gnutls_datum_t *cert, const gnutls_datum_t *key)
{
    gnutls_certificate_credentials_t pair;
    int rc = gnutls_certificate_allocate_credentials(&pair);

    if (rc < 0) return rc;
    rc = gnutls_certificate_set_x509_key_mem(pair, cert, key, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(pair);
    return rc < 0 ? rc : 0;
}

static int identity_import(struct identity *id, const gnutls_datum_t *cert,
                           const gnutls_datum_t *key)
{
    unsigned count = CHAIN_MAX;
    int rc = pair_check(cert, key);

    if (rc < 0) return rc;
    rc = gnutls_pcert_list_import_x509_raw(id->chain, &count, cert, GNUTLS_X509_FMT_PEM, 0);
    if (rc < 0) return rc;
    id->chain_count = count;
    rc = gnutls_privkey_init(&id->key);
    if (rc < 0) return rc;
    return gnutls_privkey_import_x509_raw(id->key, key, GNUTLS_X509_FMT_PEM, NULL, 0);
}

static enum err_code identity_load(const struct tls *tls, struct identity **out, struct err *err)
{
    struct identity *id = mem_new(struct identity);
    gnutls_datum_t cert, key = {0};
    enum err_code rc = pem_read("tls_cert", tls->cert_path, &cert, err);

    if (!rc) rc = pem_read("tls_key", tls->key_path, &key, err);
    if (!rc) {
        int failed = identity_import(id, &cert, &key);
        if (failed < 0)
            rc = err_set(err, ERR_INVALID_REQUEST,
                         "security.tls_cert %s and security.tls_key %s cannot be used: %s",
                         tls->cert_path, tls->key_path, gnutls_strerror(failed));
    }
    pem_free(&cert);
    pem_free(&key);
    if (rc)
        identity_free(id);
    else
        *out = id;
    return rc;
}

/* ---- public ---- */

enum err_code tls_load(const char *cert_path, const char *key_path, struct tls **out,
                       struct err *err)
{
    struct tls *tls = mem_new(struct tls);

    tls->cert_path = cert_path;
    tls->key_path = key_path;
    enum err_code rc = tls_reload(tls, err);
    if (rc)
        mem_free(tls);
    else
        *out = tls;
    return rc;
}

enum err_code tls_reload(struct tls *tls, struct err *err)
{
    struct identity *id = NULL;
    enum err_code rc = identity_load(tls, &id, err);

    if (rc) return rc;
    id->older = tls->newest;
    tls->newest = id;
    atomic_store_explicit(&current, id, memory_order_release);
    return ERR_OK;
}

void tls_free(struct tls *tls)
{
    if (!tls) return;
    atomic_store(&current, NULL);
    while (tls->newest) {
        struct identity *older = tls->newest->older;
        identity_free(tls->newest);
        tls->newest = older;
    }
    mem_free(tls);
}

static int tls_retrieve(gnutls_session_t session, const gnutls_datum_t *issuers, int issuer_count,
                        const gnutls_pk_algorithm_t *algorithms, int algorithm_count,
                        gnutls_pcert_st **chain, unsigned *chain_count, gnutls_privkey_t *key)
{
    struct identity *id = atomic_load_explicit(&current, memory_order_acquire);

    (void)session, (void)issuers, (void)issuer_count, (void)algorithms, (void)algorithm_count;
    if (!id) return -1;
    *chain = id->chain;
    *chain_count = id->chain_count;
    *key = id->key;
    return 0;
}

void *tls_certificate(void)
{
    return (void *)(uintptr_t)tls_retrieve;
}
