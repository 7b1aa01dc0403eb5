"""The gateway's own routes in the OpenAPI document, written by hand because no proto tells of them."""

from collections.abc import Mapping

from lensmith_gateway.openapi_schemas import Schema

_ERROR: Schema = {"$ref": "#/components/responses/Error"}
_RESULTS: Schema = {"$ref": "#/components/schemas/CreateInputsResponse"}

HTTP_TAG: Schema = {
    "name": "Gateway",
    "description": "Plain HTTP beside the API: multipart uploads, pictures by link, health.",
}

_UPLOAD_OPTIONS: Schema = {
    "type": "object",
    "description": "Options as JSON.",
    "additionalProperties": False,
    "properties": {
        "allow_duplicate": {
            "type": "boolean",
            "description": "Whether bytes that the app already has become a second input.",
        },
        "request_id": {
            "type": "string",
            "maxLength": 56,
            "description": "Makes a repeated upload of the same files add nothing twice.",
        },
        "files": {
            "type": "object",
            "description": "By file name: `inputId`, `metadata`, `test` and `annotations`, as in CreateInputs.",
            "additionalProperties": {"$ref": "#/components/schemas/NewInput"},
        },
    },
}

_UPLOAD: Schema = {
    "operationId": "Upload",
    "tags": ["Gateway"],
    "summary": "Adds pictures from files",
    "description": "Adds pictures from the files of a multipart form, at most 128; every part with a file name is one, "
    "whatever the part is called. Nothing is added unless the whole form arrives. The answer is that of CreateInputs: "
    "one result for each file, in order.\n\nNeeds scope `Inputs:Add`.",
    "x-lensmith-access": "scope `Inputs:Add`",
    "x-lensmith-scope": "Inputs:Add",
    "parameters": [
        {
            "name": "app",
            "in": "path",
            "required": True,
            "description": "Own id of the app.",
            "schema": {"type": "string"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "array",
                            "description": "The files.",
                            "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                            "minItems": 1,
                            "maxItems": 128,
                        },
                        "concept": {
                            "type": "array",
                            "description": "Own ids of concepts that every picture shows. They must exist.",
                            "items": {"type": "string", "maxLength": 128},
                        },
                        "allow_duplicate": {"type": "string", "enum": ["true", "false"]},
                        "options": _UPLOAD_OPTIONS,
                    },
                },
                "encoding": {"options": {"contentType": "application/json"}},
            }
        },
    },
    "responses": {
        "200": {"description": "OK", "content": {"application/json": {"schema": _RESULTS}}},
        "default": _ERROR,
    },
}

_REPORT_EXAMPLE: Schema = {
    "name": "apps/kitchen/models/sorter/versions/3",
    "title": "sorter",
    "type": "multi-class",
    "what": "It looks at a picture and says which one of 6 things it shows: cardboard, glass, metal, paper, plastic, "
    "trash. It learnt that from 150 pictures.",
    "version": 3,
    "production": False,
    "verdict": {
        "level": "useful",
        "headline": "Right on 75 of 100 pictures",
        "sentences": [
            "That is much better than guessing: useful where a mistake costs little or somebody looks again.",
            "With other pictures of the same kind, it could have come out between 68 and 82.",
            "Always saying the most frequent thing would be right on 17 of 100.",
        ],
    },
}

_REPORT: Schema = {
    "operationId": "GetReport",
    "tags": ["Gateway"],
    "summary": "Returns the report of a version",
    "description": "Returns the report of a READY version for people: what it is, how good it is in plain words, what "
    "to fix, and pictures that it answered rightly and wrongly, with what spoke for the answer. One page of HTML that "
    "needs nothing beside it and runs nothing, or the same as JSON. What the key may not see, such as heat maps "
    "without the scope `Predict`, is left out, and the report says so.\n\nNeeds scope `Models:Get` and `Inputs:Get`, "
    "or any key on `apps/main`.",
    "x-lensmith-access": "scope `Models:Get` and `Inputs:Get`, or any key on `apps/main`",
    "x-lensmith-scope": "Models:Get",
    "parameters": [
        *(
            {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in (
                ("app", "Own id of the app."),
                ("model", "Own id of the model."),
                ("version", "Number of the version."),
            )
        ),
        {
            "name": "format",
            "in": "query",
            "description": "What to answer with.",
            "schema": {"type": "string", "enum": ["html", "json"], "default": "html"},
        },
        {
            "name": "pictures",
            "in": "query",
            "description": "Whether to show pictures; without them the report is small and quick.",
            "schema": {"type": "boolean", "default": True},
        },
    ],
    "responses": {
        "200": {
            "description": "The report.",
            "content": {
                "text/html": {"schema": {"type": "string"}},
                "application/json": {"schema": {"type": "object"}, "example": _REPORT_EXAMPLE},
            },
        },
        "default": _ERROR,
    },
}

_IMAGE: Schema = {
    "operationId": "GetImageBytes",
    "tags": ["Gateway"],
    "summary": "Returns a picture's bytes",
    "description": "Returns a picture's bytes to whoever holds its link, which GetImage makes, until the link expires."
    "\n\nNeeds no key.",
    "x-lensmith-access": "no key",
    "security": [],
    "parameters": [
        {
            "name": "token",
            "in": "path",
            "required": True,
            "description": "Last part of the link's path.",
            "schema": {"type": "string"},
        }
    ],
    "responses": {
        "200": {
            "description": "The file as it was uploaded.",
            "content": {"image/*": {"schema": {"type": "string", "contentMediaType": "image/*"}}},
        },
        "default": _ERROR,
    },
}

_STATE: Schema = {"type": "string", "enum": ["SERVING", "NOT_SERVING", "UNREACHABLE"]}
_HEALTH: Schema = {
    "type": "object",
    "required": ["status", "services"],
    "properties": {
        "status": {"type": "string", "enum": ["SERVING", "NOT_SERVING"]},
        "services": {"type": "object", "additionalProperties": _STATE},
    },
    "example": {"status": "SERVING", "services": {"auth": "SERVING", "dataset": "SERVING", "gateway": "SERVING"}},
}

_HEALTHZ: Schema = {
    "operationId": "GetHealth",
    "tags": ["Gateway"],
    "summary": "Tells how the platform is",
    "description": "Tells whether every service can serve; 503 where one cannot.\n\nNeeds no key.",
    "x-lensmith-access": "no key",
    "security": [],
    "responses": {
        "200": {"description": "All services serve.", "content": {"application/json": {"schema": _HEALTH}}},
        "503": {"description": "Some service does not.", "content": {"application/json": {"schema": _HEALTH}}},
    },
}

HTTP_PATHS: Mapping[str, Schema] = {
    "/v1/apps/{app}/uploads": {"post": _UPLOAD},
    "/v1/apps/{app}/models/{model}/versions/{version}/report": {"get": _REPORT},
    "/images/{token}": {"get": _IMAGE},
    "/healthz": {"get": _HEALTHZ},
}
"""Operations by path."""
