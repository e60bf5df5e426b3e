/* handlers_admin.c - health, readiness, version, metrics, the OpenAPI document. */
#include "api/api_private.h"

enum err_code admin_health(struct api_app *app, struct api_request *req, struct api_response *res,
                           struct err *err)
{
    (void)app, (void)req, (void)err;
    buf_str(answer_json(res, 200), "{\"status\":\"ok\"}\n");
    return ERR_OK;
}

enum err_code admin_ready(struct api_app *app, struct api_request *req, struct api_response *res,
                          struct err *err)
{
    (void)req;
    if (app->draining) return err_set(err, ERR_SHUTTING_DOWN, "the server is shutting down");
    if (!app->ready) return err_set(err, ERR_NOT_READY, "the server is starting");
    buf_str(answer_json(res, 200), "{\"status\":\"ready\"}\n");
    return ERR_OK;
}

enum err_code admin_version(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    (void)app, (void)req, (void)err;
    buf_str(answer_json(res, 200), "{\"name\":\"jadevectordb\",\"version\":\"" JADEVECTORDB_VERSION
                                   "\",\"api\":\"v1\"}\n");
    return ERR_OK;
}

enum err_code admin_metrics(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    (void)req, (void)err;
    res->status = 200;
    res->content_type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_write(app, &res->body);
    return ERR_OK;
}

enum err_code admin_openapi(struct api_app *app, struct api_request *req, struct api_response *res,
                            struct err *err)
{
    (void)app, (void)req, (void)err;
    buf_add(answer_json(res, 200), openapi_json, (size_t)(openapi_json_end - openapi_json));
    return ERR_OK;
}
