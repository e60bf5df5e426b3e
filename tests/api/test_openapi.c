/* test_openapi.c - openapi.json says what routes.def says, and the other way round. */
#include "tests/api/loopback.h"

#include "api/api_private.h"

static json_t *document;

static int set_up(void **unused)
{
    (void)unused;
    json_error_t fault;
    document = json_loadb(openapi_json, (size_t)(openapi_json_end - openapi_json),
                          JSON_REJECT_DUPLICATES, &fault);
    if (!document) print_message("line %d: %s\n", fault.line, fault.text);
    return document ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    json_decref(document);
    return 0;
}

static json_t *operation_of(const struct api_route *route)
{
    char method[16] = "";
    for (size_t i = 0; route->method[i]; i++)
        method[i] = (char)(route->method[i] | 0x20);
    json_t *path = json_object_get(json_object_get(document, "paths"), route->pattern);
    return json_object_get(path, method);
}

static void every_route_is_an_operation(void **unused)
{
    (void)unused;
    static const char *const scopes[] = {NULL, "read", "write", "admin"};
    char status[8];
    for (int i = 0; i < ROUTE_COUNT; i++) {
        const struct api_route *route = &api_routes[i];
        json_t *operation = operation_of(route);
        if (!operation) fail_msg("%s %s is not in openapi.json", route->method, route->pattern);
        assert_string_equal(json_string_value(json_object_get(operation, "summary")),
                            route->summary);
        snprintf(status, sizeof status, "%d", route->status);
        json_t *responses = json_object_get(operation, "responses");
        if (!json_object_get(responses, status) || !json_object_get(responses, "default"))
            fail_msg("%s %s has not the response %s", route->method, route->pattern, status);
        const char *scope = json_string_value(json_object_get(operation, "x-scope"));
        if (route->scope == SCOPE_NONE)
            assert_null(scope);
        else
            assert_string_equal(scope, scopes[route->scope]);
        if (route->body == BODY_EMPTY) assert_null(json_object_get(operation, "requestBody"));
        for (const char *p = strchr(route->pattern, '{'); p; p = strchr(p + 1, '{')) {
            size_t index;
            json_t *parameter;
            bool found = false;
            json_array_foreach(json_object_get(operation, "parameters"), index, parameter)
            {
                const char *name = json_string_value(json_object_get(parameter, "name"));
                found |= strncmp(name, p + 1, strlen(name)) == 0 && p[1 + strlen(name)] == '}';
            }
            if (!found)
                fail_msg("%s %s: a path parameter is missing", route->method, route->pattern);
        }
    }
}

static void every_operation_is_a_route(void **unused)
{
    (void)unused;
    const char *pattern, *method;
    json_t *path, *operation;
    json_object_foreach(json_object_get(document, "paths"), pattern, path)
    {
        json_object_foreach(path, method, operation)
        {
            bool found = false;
            for (int i = 0; i < ROUTE_COUNT; i++)
                found |= strcmp(api_routes[i].pattern, pattern) == 0 &&
                         operation_of(&api_routes[i]) == operation;
            if (!found) fail_msg("%s %s is no route", method, pattern);
        }
    }
}

static void check_references(const json_t *value)
{
    size_t index;
    const char *key;
    json_t *child;
    json_array_foreach((json_t *)value, index, child) check_references(child);
    json_object_foreach((json_t *)value, key, child)
    {
        if (strcmp(key, "$ref") == 0) {
            char text[128], *rest = NULL;
            snprintf(text, sizeof text, "%s", json_string_value(child));
            json_t *at = document;
            assert_memory_equal(text, "#/", 2);
            for (char *word = strtok_r(text + 2, "/", &rest); word;
                 word = strtok_r(NULL, "/", &rest))
                at = json_object_get(at, word);
            if (!at) fail_msg("%s leads nowhere", json_string_value(child));
        }
        check_references(child);
    }
}

static void every_reference_leads_somewhere(void **unused)
{
    (void)unused;
    check_references(document);
}

static void operation_ids_are_unique(void **unused)
{
    (void)unused;
    json_t *seen = json_object();
    for (int i = 0; i < ROUTE_COUNT; i++) {
        const char *id =
            json_string_value(json_object_get(operation_of(&api_routes[i]), "operationId"));
        assert_non_null(id);
        if (json_object_get(seen, id)) fail_msg("%s is there twice", id);
        json_object_set_new(seen, id, json_true());
    }
    json_decref(seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_an_operation),
        cmocka_unit_test(every_operation_is_a_route),
        cmocka_unit_test(every_reference_leads_somewhere),
        cmocka_unit_test(operation_ids_are_unique),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
