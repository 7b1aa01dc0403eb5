"""Examples of calls, those that a newcomer makes first before all; the tests hold them against the protos."""

from collections.abc import Mapping

from lensmith_gateway.openapi_example import Example, Json
from lensmith_gateway.openapi_version_examples import VERSION_EXAMPLES

_OK: Json = {"code": 0, "message": "", "details": []}
_VERSION: Json = {
    "name": "apps/trash/models/sorter/versions/1",
    "number": 1,
    "state": "MODEL_VERSION_STATE_QUEUED",
    "concepts": ["glass", "metal", "plastic"],
    "inputCount": "1768",
    "createTime": "2026-11-22T12:00:00Z",
}

EXAMPLES: Mapping[str, Example] = {
    "CreateApp": Example(
        {"appId": "trash", "app": {"displayName": "Trash sorting"}},
        {
            "app": {"name": "apps/trash", "displayName": "Trash sorting"},
            "key": {"name": "apps/trash/keys/0b7e…", "prefix": "lm_4f", "scopes": ["All"]},
            "secret": "lm_4f…",
        },
    ),
    "CreateKey": Example(
        {"key": {"description": "the sorting line", "scopes": ["Predict"]}},
        {
            "key": {"name": "apps/trash/keys/7d21…", "description": "the sorting line", "scopes": ["Predict"]},
            "secret": "lm_9c…",
            "alreadyIssued": False,
        },
    ),
    "WhoAmI": Example(
        None,
        {
            "app": "apps/trash",
            "key": {"name": "apps/trash/keys/7d21…", "scopes": ["Predict"]},
            "effectiveScopes": ["Predict"],
            "operator": False,
        },
    ),
    "CreateConcepts": Example(
        {"concepts": [{"conceptId": "glass"}, {"conceptId": "metal", "displayName": "Metal"}]},
        {
            "results": [
                {"status": _OK, "concept": {"name": "apps/trash/concepts/glass"}, "existed": False},
                {"status": _OK, "concept": {"name": "apps/trash/concepts/metal"}, "existed": True},
            ]
        },
    ),
    "CreateInputs": Example(
        {
            "inputs": [
                {
                    "inputId": "bottle-1",
                    "image": {"url": "https://example.org/bottle.jpg"},
                    "annotations": [{"concept": "glass", "positive": True}],
                    "metadata": {"camera": "line 2"},
                }
            ]
        },
        {
            "results": [
                {
                    "status": _OK,
                    "input": {
                        "name": "apps/trash/inputs/bottle-1",
                        "status": "INPUT_STATUS_PENDING",
                        "mimeType": "image/jpeg",
                        "width": 512,
                        "height": 384,
                    },
                    "duplicate": False,
                }
            ]
        },
    ),
    "Annotate": Example(
        {
            "items": [
                {
                    "input": "bottle-1",
                    "action": "ANNOTATE_ACTION_MERGE",
                    "annotations": [{"concept": "metal", "positive": False}],
                }
            ]
        },
        {"statuses": [_OK]},
    ),
    "CreateModel": Example(
        {"modelId": "sorter", "model": {"type": "MODEL_TYPE_MULTI_CLASS", "displayName": "Trash sorter"}},
        {"name": "apps/trash/models/sorter", "type": "MODEL_TYPE_MULTI_CLASS", "displayName": "Trash sorter"},
    ),
    "TrainModel": Example({"note": "first try"}, _VERSION),
    "GetModelVersion": Example(
        None,
        {
            **_VERSION,
            "state": "MODEL_VERSION_STATE_READY",
            "production": True,
            "summary": {"accuracy": 0.842, "macroF1": 0.827},
        },
    ),
    "UpdateModel": Example(
        {"productionVersion": 1}, {"name": "apps/trash/models/sorter", "productionVersion": 1, "pinned": True}
    ),
    "Predict": Example(
        {"inputs": [{"id": "1", "image": {"url": "https://example.org/bottle.jpg"}}], "maxConcepts": 2},
        {
            "modelVersion": "apps/trash/models/sorter/versions/1",
            "predictions": [
                {
                    "id": "1",
                    "status": _OK,
                    "concepts": [
                        {"concept": "glass", "displayName": "glass", "value": 0.93, "predicted": True},
                        {"concept": "plastic", "displayName": "plastic", "value": 0.05, "predicted": False},
                    ],
                }
            ],
        },
    ),
    "Explain": Example(
        {"inputs": [{"id": "1", "image": {"url": "https://example.org/bottle.jpg"}}], "nearest": 1},
        {
            "modelVersion": "apps/trash/models/sorter/versions/1",
            "method": "HEAT_MAP_METHOD_SHARED_CONTRIBUTION",
            "explanations": [
                {
                    "id": "1",
                    "status": _OK,
                    "concepts": [
                        {
                            "concept": {"concept": "glass", "displayName": "glass", "value": 0.93, "predicted": True},
                            "logit": 2.1,
                            "heatMap": {
                                "rows": 2,
                                "columns": 2,
                                "values": [5.2, 2.7, 0.9, -0.4],
                                "region": {"left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0},
                            },
                        }
                    ],
                    "nearest": [
                        {
                            "input": "apps/trash/inputs/bottle-7",
                            "similarity": 0.94,
                            "annotations": [{"concept": "glass", "positive": True}],
                        }
                    ],
                    "nearestStatus": _OK,
                }
            ],
        },
    ),
    **VERSION_EXAMPLES,
}
"""Examples by RPC name."""
