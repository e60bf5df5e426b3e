/* openapi.c - openapi.json as it stands, inside the program.  The path is relative to the top of
 * the tree, where make runs. */
#include "api/api_private.h"

__asm__(".section .rodata\n"
        ".global openapi_json\n"
        ".global openapi_json_end\n"
        "openapi_json:\n"
        ".incbin \"api/openapi.json\"\n"
        "openapi_json_end:\n"
        ".byte 0\n"
        ".previous\n");
