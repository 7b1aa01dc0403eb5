"""What an example of the OpenAPI document is."""

from dataclasses import dataclass

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Example:
    """A call and its answer.

    Attributes:
        request: the JSON body; ``None`` where there is none.
        response: the answer, shortened to what matters.
    """

    request: Json | None
    response: Json
