"""Makes the OpenAPI 3.1 document of the REST API from the descriptors: paths, schemas, limits, scopes and comments.

Run as `python -m lensmith_gateway.openapi`; `--check FILE` fails when the file differs.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor

from lensmith_api.v1.access_pb2 import Access
from lensmith_gateway.contract import Contract, ContractError, HttpBinding, Rpc, load_contract
from lensmith_gateway.openapi_examples import EXAMPLES
from lensmith_gateway.openapi_http import HTTP_PATHS, HTTP_TAG
from lensmith_gateway.openapi_schemas import Schema, Schemas

_VARIABLE = re.compile(r"\{([\w.]+)=([^}]+)\}")
_SINGULAR = {"apps": "app", "inputs": "input", "models": "model", "versions": "version", "keys": "key"} | {
    "concepts": "concept",
    "baseModels": "baseModel",
    "upgrades": "upgrade",
}
_INTRODUCTION = """\
Teach computers to see by your own taxonomy: upload pictures, label them with concepts, train a private model in
seconds, and ask it about new ones.

**Authentication.** Send `Authorization: Key <secret>`. A key belongs to one app and carries scopes; each call below
says which scope it needs. `Add` implies `Get`, `Delete` implies `Add` and `Get`, and `All` is every scope.

**gRPC.** The same port speaks gRPC and gRPC-Web with the same messages, and answers server reflection.

**Errors** have one body, `{"code", "message", "details"}`; programs decide on the `reason` in `details`. A batch never
fails as a whole for one item: each item carries a status of its own.

**JSON** is the protobuf mapping: fields in camelCase (snake_case is read too), long integers as strings, bytes as
base64, times in RFC 3339 UTC. Fields with their default value are printed, and unknown fields are refused. A body has
at most 64 MiB.

**Lists** page: pass `nextPageToken` as `pageToken` until it is empty.
"""


@dataclass(frozen=True, slots=True)
class _Path:
    """A path template in OpenAPI's words.

    Attributes:
        template: `/v1/apps/{app}/inputs`.
        variables: names in it, in order.
        bound: request fields that it gives.
    """

    template: str
    variables: tuple[str, ...]
    bound: tuple[str, ...]


def openapi_document(contract: Contract) -> Schema:
    """The document as plain data."""
    schemas = Schemas(contract)
    paths: dict[str, Schema] = {}
    for rpc in contract.rpcs:
        if rpc.binding is not None:
            path = _path(rpc.binding)
            paths.setdefault(path.template, {})[rpc.binding.verb] = _operation(rpc, rpc.binding, path, schemas)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Lensmith API",
            "version": version("lensmith"),
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [*(_tag(name, contract) for name in contract.services), HTTP_TAG],
        "paths": paths | {path: dict(operations) for path, operations in HTTP_PATHS.items()},
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {"Error": _error_response()},
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Key <secret>`, with the secret of an app's key or of the operator's.",
                }
            },
        },
    }


def openapi_json(document: Schema) -> str:
    """The document as text, the same for the same API."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def access_text(access: Access) -> str:
    """What a caller needs, in one phrase."""
    match access.WhichOneof("rule"):
        case "scope":
            also = ", or any key on `apps/main`" if access.public_app else ""
            scopes = " and ".join(f"`{scope}`" for scope in (access.scope, *access.also_scopes))
            return f"scope {scopes}{also}"
        case "any_key":
            return "any key"
        case "public":
            return "no key"
    return "the operator's key"


def _tag(service: str, contract: Contract) -> Schema:
    grpc_only = [
        f"Over gRPC only: `{rpc.name}` ({access_text(rpc.access)}). {rpc.comment}"
        for rpc in contract.rpcs
        if rpc.service == service and rpc.binding is None
    ]
    return {"name": service.rpartition(".")[2], "description": "\n\n".join([contract.comment(service), *grpc_only])}


def _operation(rpc: Rpc, binding: HttpBinding, path: _Path, schemas: Schemas) -> Schema:
    example = EXAMPLES.get(rpc.name)
    operation: Schema = {
        "operationId": rpc.name,
        "tags": [rpc.service.rpartition(".")[2]],
        "summary": rpc.comment.partition(". ")[0].removesuffix("."),
        "description": f"{rpc.comment}\n\nNeeds {access_text(rpc.access)}.",
        "x-lensmith-grpc": rpc.grpc_path,
        "x-lensmith-access": access_text(rpc.access),
    }
    if rpc.access.scope:
        operation["x-lensmith-scope"] = rpc.access.scope
    if rpc.access.public:
        operation["security"] = []
    if parameters := [*map(_path_parameter, path.variables), *_query_parameters(rpc, binding, path, schemas)]:
        operation["parameters"] = parameters
    if binding.body:
        content: Schema = {"schema": _body(rpc, binding, path, schemas)}
        if example is not None and example.request is not None:
            content["example"] = example.request
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    answer: Schema = {"schema": schemas.reference(rpc.response)}
    if example is not None:
        answer["example"] = example.response
    text = (
        "A stream: one JSON document a line, the last one with `summary` or `error`." if rpc.server_streaming else "OK"
    )
    operation["responses"] = {
        "200": {"description": text, "content": {"application/json": answer}},
        "default": {"$ref": "#/components/responses/Error"},
    }
    return operation


def _path(binding: HttpBinding) -> _Path:
    """Name the wildcards of `/v1/{name=apps/*/models/*}:train` after the collections that they are in."""
    bound = tuple(match[1] for match in _VARIABLE.finditer(binding.path))
    variables: list[str] = []
    parts: list[str] = []
    for part in _VARIABLE.sub(r"\2", binding.path).split("/"):
        if part.startswith("*"):
            variable = _SINGULAR[parts[-1]]
            variables.append(variable)
            parts.append("{" + variable + "}" + part[1:])
        else:
            parts.append(part)
    return _Path("/".join(parts), tuple(variables), bound)


def _path_parameter(variable: str) -> Schema:
    what = {
        "app": "Own id of the app.",
        "input": "Own id or uid of the input.",
        "model": "Own id of the model.",
        "version": "Number of the version.",
        "upgrade": "Number of the upgrade.",
        "key": "uid of the key.",
        "concept": "Own id of the concept.",
        "baseModel": "Id of the base model.",
    }[variable]
    return {"name": variable, "in": "path", "required": True, "description": what, "schema": {"type": "string"}}


def _query_parameters(rpc: Rpc, binding: HttpBinding, path: _Path, schemas: Schemas) -> list[Schema]:
    if binding.body == "*":
        return []
    taken = {name.partition(".")[0] for name in path.bound} | {binding.body}
    return [_query_parameter(field, schemas) for field in rpc.request.fields if field.name not in taken]


def _query_parameter(field: FieldDescriptor, schemas: Schemas) -> Schema:
    schema = schemas.field(field)
    parameter: Schema = {"name": field.json_name, "in": "query"}
    if description := schema.pop("description", None):
        parameter["description"] = description
    # An update without a mask is refused by the service; everything else has a default.
    if field.json_name == "updateMask":
        parameter["required"] = True
    return {**parameter, "schema": schema}


def _body(rpc: Rpc, binding: HttpBinding, path: _Path, schemas: Schemas) -> Schema:
    if binding.body != "*":
        message = rpc.request.fields_by_name[binding.body].message_type
        if message is None:
            raise ContractError(f"{rpc.name} has a body that is no message")
        # Only what the mask names must be there.
        name = f"{message.name}Patch"
        schemas.components[name] = schemas.message(message, without={"name"}, closed=True) | {"required": []}
        return {"$ref": f"#/components/schemas/{name}"}
    schemas.components[rpc.request.name] = schemas.message(rpc.request, without=path.bound, closed=True)
    return {"$ref": f"#/components/schemas/{rpc.request.name}"}


def _error_response() -> Schema:
    reference = {"$ref": "#/components/schemas/Status"}
    example = {
        "code": 7,
        "message": "this key lacks the scope Inputs:Add, which lensmith.v1.InputService/CreateInputs needs",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "SCOPE_MISSING",
                "domain": "lensmith",
                "metadata": {"scope": "Inputs:Add"},
            }
        ],
    }
    return {
        "description": "The call failed. 400 wrong request, 401 no or unknown key, 403 not allowed, 404 not found, "
        "409 exists or changed meanwhile, 413 too large, 429 a limit is used up, 503 try again, 504 took too long.",
        "content": {"application/json": {"schema": reference, "example": example}},
    }


def main() -> int:
    """Write the document, or with `--check` compare it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="lensmith openapi", description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (default: standard output)")
    parser.add_argument("--check", type=Path, metavar="FILE", help="fail when this file differs")
    arguments = parser.parse_args()
    text = openapi_json(openapi_document(load_contract()))
    if arguments.check:
        if not arguments.check.exists() or arguments.check.read_text() != text:
            parser.exit(1, f"{arguments.check} differs from the protos: run `make gen`\n")
    elif arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
