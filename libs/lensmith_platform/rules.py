"""What request fields may hold: `REQUIRED` and `(lensmith.v1.rules)` of the contract, compiled once per message type.

No text may hold the character NUL, rule or not. Types without rules and text cost nothing; `bytes` are measured without
being copied where the size of the whole message already tells that they fit.
"""

import re
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, field

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from lensmith_api.v1 import access_pb2
from lensmith_platform.errors import InvalidInputError

Violation = tuple[str, str]
"""Path of a field, and what is wrong with it."""

MAX_VIOLATIONS = 12
"""How many violations are told; the rest of the request is not looked at."""

_Check = Callable[[object], str | None]


@dataclass(slots=True)
class _FieldPlan:
    """What to check of one field.

    Attributes:
        name: its name.
        required: whether it must be set.
        repeated: whether it is a list.
        is_map: whether it is a map.
        presence: whether "not set" can be told from the default.
        lengths: fewest and most items; None: any number.
        value: what is wrong with one value; None: nothing is checked.
        bytes_limit: most bytes, for a bytes field.
        inner: plan of the messages in it.
    """

    name: str
    required: bool
    repeated: bool
    is_map: bool
    presence: bool
    lengths: tuple[int, int | None] | None
    value: _Check | None
    bytes_limit: int | None
    inner: "Plan | None"


@dataclass(slots=True)
class Plan:
    """What to check of messages of one type."""

    fields: list[_FieldPlan] = field(default_factory=list)

    def violations(self, message: Message, size: int, prefix: str = "") -> Iterator[Violation]:
        """Yield what is wrong with a message.

        Args:
            message: the message.
            size: bytes of the whole request on the wire: no bytes field in it is longer.
            prefix: path of the message in the request, ending in a dot.
        """
        for plan in self.fields:
            path = f"{prefix}{plan.name}"
            if plan.repeated or plan.is_map:
                yield from _check_items(plan, getattr(message, plan.name), size, path)
            else:
                yield from _check_single(plan, message, size, path)


def check(plan: Plan, message: Message, size: int) -> None:
    """Check a request.

    Raises:
        InvalidInputError: FIELD_INVALID; names the fields and what is wrong with them.
    """
    found: list[Violation] = []
    for violation in plan.violations(message, size):
        found.append(violation)
        if len(found) == MAX_VIOLATIONS:
            break
    if not found:
        return
    path, why = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise InvalidInputError("FIELD_INVALID", f"{path} {why}{more}", metadata={"field": path}, field_violations=found)


class Planner:
    """Compiles plans; message types that contain themselves included."""

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        self._useful: dict[str, bool] = {}

    def plan(self, descriptor: Descriptor) -> Plan | None:
        """Return the plan of a message type; None where nothing is to be checked."""
        if not self._has_rules(descriptor, set()):
            return None
        known = self._plans.get(descriptor.full_name)
        if known is not None:
            return known
        plan = Plan()
        # Known before its fields are looked at: a type may contain itself.
        self._plans[descriptor.full_name] = plan
        for entry in descriptor.fields:
            compiled = self._field(entry)
            if compiled is not None:
                plan.fields.append(compiled)
        return plan

    def _has_rules(self, descriptor: Descriptor, seen: set[str]) -> bool:
        if descriptor.full_name in seen:
            return False
        seen.add(descriptor.full_name)
        known = self._useful.get(descriptor.full_name)
        if known is not None:
            return known
        useful = any(
            _is_required(entry) or _is_text(entry) or _rules(entry) is not None for entry in descriptor.fields
        ) or any(
            self._has_rules(entry.message_type, seen)
            for entry in descriptor.fields
            if entry.message_type is not None and not _is_map(entry)
        )
        if useful or len(seen) == 1:
            # A negative answer found on the way round a circle is not final.
            self._useful[descriptor.full_name] = useful
        return useful

    def _field(self, entry: FieldDescriptor) -> _FieldPlan | None:
        rules, required = _rules(entry), _is_required(entry)
        is_map = _is_map(entry)
        inner = self.plan(entry.message_type) if entry.message_type is not None and not is_map else None
        if rules is None and not required and inner is None and not _is_text(entry):
            return None
        rules = rules or access_pb2.Rules()
        many = entry.is_repeated
        return _FieldPlan(
            name=entry.name,
            required=required,
            repeated=many and not is_map,
            is_map=is_map,
            presence=entry.has_presence,
            lengths=(max(rules.min_items, 1 if required else 0), rules.max_items or None) if many else None,
            value=None if is_map else _value_check(entry, rules),
            bytes_limit=rules.max_length or None if entry.type == FieldDescriptor.TYPE_BYTES else None,
            inner=inner,
        )


def _check_items(plan: _FieldPlan, items: Sequence[object], size: int, path: str) -> Iterator[Violation]:
    least, most = plan.lengths or (0, None)
    count = len(items)
    if count < least:
        yield path, "must not be empty" if count == 0 else f"must have at least {least} items; it has {count}"
    if most is not None and count > most:
        # Items beyond the limit are not looked at: that would be the work the limit is there to prevent.
        yield path, f"must have at most {most} items; it has {count}"
        return
    if plan.is_map or (plan.value is None and plan.inner is None):
        return
    skip_bytes = plan.bytes_limit is not None and size <= plan.bytes_limit
    for index, item in enumerate(items):
        if plan.inner is not None and isinstance(item, Message):
            yield from plan.inner.violations(item, size, f"{path}[{index}].")
        elif plan.value is not None and not skip_bytes and (why := plan.value(item)) is not None:
            yield f"{path}[{index}]", why


def _check_single(plan: _FieldPlan, message: Message, size: int, path: str) -> Iterator[Violation]:
    if plan.presence:
        if not message.HasField(plan.name):
            if plan.required:
                yield path, "must be set"
            return
        if plan.inner is not None:
            yield from plan.inner.violations(getattr(message, plan.name), size, f"{path}.")
            return
    if plan.bytes_limit is not None and size <= plan.bytes_limit and not plan.required:
        # Reading the field would copy it.
        return
    if plan.value is None and not plan.required:
        return
    value = getattr(message, plan.name)
    if plan.required and not plan.presence and not value:
        yield path, "must not be empty" if isinstance(value, str | bytes) else "must be set"
    elif plan.value is not None and (why := plan.value(value)) is not None:
        yield path, why


def _value_check(entry: FieldDescriptor, rules: access_pb2.Rules) -> _Check | None:
    checks: list[_Check] = []
    if _is_text(entry):
        checks.append(_nul_check)
    if rules.max_length and entry.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        checks.append(_length_check(rules.max_length, entry.type == FieldDescriptor.TYPE_BYTES))
    if rules.pattern:
        checks.append(_pattern_check(rules.pattern))
    if rules.HasField("min") or rules.HasField("max"):
        checks.append(
            _range_check(rules.min if rules.HasField("min") else None, rules.max if rules.HasField("max") else None)
        )
    if not checks:
        return None
    if len(checks) == 1:
        return checks[0]
    return lambda value: next((why for one in checks if (why := one(value)) is not None), None)


def _nul_check(value: object) -> str | None:
    # Postgres cannot keep it, and nothing that people write holds it: refused here once for all fields of all services.
    return "must not hold the character NUL" if isinstance(value, str) and "\x00" in value else None


def _length_check(limit: int, is_bytes: bool) -> _Check:
    unit = "bytes" if is_bytes else "characters"

    def wrong(value: object) -> str | None:
        length = len(value) if isinstance(value, Sized) else 0
        return f"must have at most {limit} {unit}; it has {length}" if length > limit else None

    return wrong


# What people are told of a pattern, before the pattern itself.
_PATTERNS = {
    "[a-z0-9][a-z0-9-]*": "be of small letters, digits and '-' only, the first one a letter or digit:",
    "[a-z0-9][a-z0-9._-]*": "be of small letters, digits, '.', '_' and '-' only, the first one a letter or digit:",
    "[^/\\x00-\\x1f\\x7f]+": "hold neither '/' nor characters that cannot be seen:",
}


def _pattern_check(pattern: str) -> _Check:
    compiled = re.compile(pattern)

    def wrong(value: object) -> str | None:
        text = str(value)
        return f"must {_PATTERNS.get(pattern, 'match')} {pattern}" if text and not compiled.fullmatch(text) else None

    return wrong


def _range_check(least: float | None, most: float | None) -> _Check:
    def wrong(value: object) -> str | None:
        number = float(value) if isinstance(value, int | float) else 0.0
        # Written so that NaN, which compares false with everything, is refused.
        if least is not None and not number >= least:
            return f"must be at least {least:g}; it is {number:g}"
        if most is not None and not number <= most:
            return f"must be at most {most:g}; it is {number:g}"
        return None

    return wrong


def _rules(entry: FieldDescriptor) -> access_pb2.Rules | None:
    options = entry.GetOptions()
    return options.Extensions[access_pb2.rules] if options.HasExtension(access_pb2.rules) else None


def _is_required(entry: FieldDescriptor) -> bool:
    return field_behavior_pb2.REQUIRED in entry.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def _is_text(entry: FieldDescriptor) -> bool:
    return entry.type == FieldDescriptor.TYPE_STRING


def _is_map(entry: FieldDescriptor) -> bool:
    return entry.message_type is not None and entry.message_type.GetOptions().map_entry
