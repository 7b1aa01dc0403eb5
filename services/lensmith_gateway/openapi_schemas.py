"""JSON schemas of the API's messages: names, types, limits and comments, as the transcoder reads and prints them."""

from collections.abc import Collection, Mapping

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from lensmith_api.v1 import access_pb2
from lensmith_gateway.contract import Contract

Schema = dict[str, object]

_REQUIRED = field_behavior_pb2.FieldBehavior.REQUIRED
_READ_ONLY = frozenset({field_behavior_pb2.FieldBehavior.OUTPUT_ONLY, field_behavior_pb2.FieldBehavior.IDENTIFIER})

_F = FieldDescriptor
_SCALARS: Mapping[int, Schema] = {
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _F.TYPE_DOUBLE: {"type": "number", "format": "double"},
    _F.TYPE_FLOAT: {"type": "number", "format": "float"},
    _F.TYPE_INT32: {"type": "integer", "format": "int32"},
    _F.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    # JSON numbers lose digits beyond 2^53: long integers are printed as strings, and read either way.
    _F.TYPE_INT64: {"type": "string", "format": "int64"},
    _F.TYPE_UINT64: {"type": "string", "format": "uint64"},
}
_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string", "description": "Names of fields, separated by commas."},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.Empty": {"type": "object", "additionalProperties": False},
    "google.protobuf.Any": {
        "type": "object",
        "required": ["@type"],
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": True,
    },
}


class Schemas:
    """Collects the schemas that a document refers to.

    Args:
        contract: the API.
    """

    def __init__(self, contract: Contract) -> None:
        self.components: dict[str, Schema] = {"Status": _STATUS}
        self._contract = contract

    def reference(self, message: Descriptor) -> Schema:
        """A schema of a message: a reference, or in place where the message has a JSON form of its own."""
        if (known := _WELL_KNOWN.get(message.full_name)) is not None:
            return dict(known)
        name = message.name
        if name not in self.components:
            self.components[name] = {}
            self.components[name] = self.message(message)
        return {"$ref": f"#/components/schemas/{name}"}

    def message(self, message: Descriptor, *, without: Collection[str] = (), closed: bool = False) -> Schema:
        """The schema of a message, in place.

        Args:
            message: which one.
            without: fields to leave out, because the path gives them.
            closed: whether unknown fields are refused, as in requests.
        """
        fields = [field for field in message.fields if field.name not in without]
        schema: Schema = {"type": "object"}
        if comment := self._contract.comment(message.full_name):
            schema["description"] = comment
        if required := [field.json_name for field in fields if _REQUIRED in _behaviours(field)]:
            schema["required"] = required
        schema["properties"] = {field.json_name: self.field(field) for field in fields}
        if closed:
            schema["additionalProperties"] = False
        return schema

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field with its comment and limits."""
        rules = field.GetOptions().Extensions[access_pb2.rules]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            schema: Schema = {
                "type": "object",
                "additionalProperties": self._value(field.message_type.fields_by_name["value"]),
            }
        elif field.is_repeated:
            schema = {"type": "array", "items": self._value(field)}
        else:
            schema = self._value(field)
        schema |= _limits(field, rules)
        notes = [self._contract.comment(field.full_name), _choice(field), _bytes_limit(field, rules)]
        if text := " ".join(note for note in notes if note):
            schema["description"] = text
        if _READ_ONLY & _behaviours(field):
            schema["readOnly"] = True
        return schema

    def _value(self, field: FieldDescriptor) -> Schema:
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.message_type is not None:
            return self.reference(field.message_type)
        return dict(_SCALARS[field.type])

    def _enum(self, enum: EnumDescriptor) -> Schema:
        if enum.name not in self.components:
            values = (
                f"- `{value.name}`: {self._contract.comment(f'{enum.full_name}.{value.name}')}" for value in enum.values
            )
            lines = [self._contract.comment(enum.full_name), "", *values]
            self.components[enum.name] = {
                "type": "string",
                "enum": [value.name for value in enum.values],
                "description": "\n".join(lines),
            }
        return {"$ref": f"#/components/schemas/{enum.name}"}


_STATUS: Schema = {
    "type": "object",
    "description": "How a call, or one item of it, went: the API's one error body.",
    "required": ["code", "message", "details"],
    "properties": {
        "code": {"type": "integer", "format": "int32", "description": "gRPC status code; 0 is OK."},
        "message": {"type": "string", "description": "One sentence for people that says what and why."},
        "details": {
            "type": "array",
            "description": "For programs: `google.rpc.ErrorInfo` with the stable `reason`, `google.rpc.BadRequest` "
            "with the fields at fault, `google.rpc.RetryInfo` with when to try again.",
            "items": _WELL_KNOWN["google.protobuf.Any"],
        },
    },
}


def _behaviours(field: FieldDescriptor) -> set[int]:
    return set(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


def _limits(field: FieldDescriptor, rules: access_pb2.Rules) -> Schema:
    limits: Schema = {}
    if rules.max_length and field.type == _F.TYPE_STRING and not field.is_repeated:
        limits["maxLength"] = rules.max_length
    if rules.pattern and not field.is_repeated:
        # Only a text that is not empty must match.
        limits["pattern"] = f"^(?:{rules.pattern}){'' if _REQUIRED in _behaviours(field) else '?'}$"
    if rules.max_items:
        limits["maxItems"] = rules.max_items
    if rules.min_items:
        limits["minItems"] = rules.min_items
    if rules.HasField("min"):
        limits["minimum"] = _plain(rules.min)
    if rules.HasField("max"):
        limits["maximum"] = _plain(rules.max)
    return limits


def _bytes_limit(field: FieldDescriptor, rules: access_pb2.Rules) -> str:
    if field.type == _F.TYPE_BYTES and rules.max_length:
        return f"At most {rules.max_length} bytes before base64."
    return ""


def _choice(field: FieldDescriptor) -> str:
    oneof = field.containing_oneof
    # `optional` makes a oneof of its own, which offers no choice.
    if oneof is None or len(oneof.fields) < 2:
        return ""
    return "At most one of " + ", ".join(f"`{member.json_name}`" for member in oneof.fields) + "."


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number
