/*
 * tls.h - certificate and private key of the server, and how both are exchanged while it runs.
 *
 * libmicrohttpd asks tls_certificate() at the beginning of each handshake.  GnuTLS hands no context
 * to it, so there is one struct tls in a process at a time.
 */
#ifndef SERVER_TLS_H
#define SERVER_TLS_H

#include "storage/base/err.h"

struct tls;

/* Read both files, PEM; the paths are borrowed until tls_free().  ERR_INVALID_REQUEST, ERR_IO: what
 * is wrong with which.  From here on tls_certificate() finds it. */
MUST_CHECK enum err_code tls_load(const char *cert_path, const char *key_path, struct tls **out,
                                  struct err *err);
/* Read both again; connections that are open keep what they have.  The old ones stay on failure.
 * One thread at a time. */
MUST_CHECK enum err_code tls_reload(struct tls *tls, struct err *err);
/* Nothing shakes hands any more.  NULL is fine. */
void tls_free(struct tls *tls);

/* For MHD_OPTION_HTTPS_CERT_CALLBACK: a gnutls_certificate_retrieve_function2.  Any thread calls
 * it. */
void *tls_certificate(void);

#endif
