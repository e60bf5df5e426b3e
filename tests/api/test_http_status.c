/* test_http_status.c - every error code has its status of the contract. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/api_private.h"

static void every_code_has_a_status(void **unused)
{
    (void)unused;
    for (int code = 0; code < ERR_CODE_COUNT; code++) {
        int status = http_status((enum err_code)code);
        assert_in_range(status, code == ERR_OK ? 200 : 400, code == ERR_OK ? 200 : 599);
    }
}

static void the_statuses_are_those_of_the_contract(void **unused)
{
    (void)unused;
    static const struct {
        const char *word;
        int status;
    } rows[] = {
        {"invalid_json", 400},
        {"invalid_request", 400},
        {"dimension_mismatch", 400},
        {"invalid_vector", 400},
        {"invalid_name", 400},
        {"invalid_id", 400},
        {"invalid_filter", 400},
        {"unauthorized", 401},
        {"forbidden", 403},
        {"not_found", 404},
        {"database_not_found", 404},
        {"vector_not_found", 404},
        {"alias_not_found", 404},
        {"snapshot_not_found", 404},
        {"method_not_allowed", 405},
        {"log_truncated", 410},
        {"database_exists", 409},
        {"conflict", 409},
        {"length_required", 411},
        {"payload_too_large", 413},
        {"uri_too_long", 414},
        {"unsupported_media_type", 415},
        {"headers_too_large", 431},
        {"precondition_failed", 412},
        {"database_quarantined", 423},
        {"rate_limited", 429},
        {"internal", 500},
        {"corrupt", 500},
        {"shutting_down", 503},
        {"overloaded", 503},
        {"not_ready", 503},
        {"database_read_only", 503},
        {"storage_full", 507},
        {"ok", 200},
    };
    for (int code = 0; code < ERR_CODE_COUNT; code++) {
        bool found = false;
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            if (strcmp(rows[i].word, err_word((enum err_code)code)) != 0) continue;
            assert_int_equal(http_status((enum err_code)code), rows[i].status);
            found = true;
        }
        if (!found) fail_msg("%s is not in the contract", err_word((enum err_code)code));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_status),
        cmocka_unit_test(the_statuses_are_those_of_the_contract),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
