"""Examples of calls about what versions are worth, came from and suggest: of a run, lists shortened and rounded."""

from collections.abc import Mapping

from lensmith_gateway.openapi_example import Example

_VERSION: Mapping[str, object] = {
    "name": "apps/kitchen/models/sorter/versions/3",
    "number": 3,
    "state": "MODEL_VERSION_STATE_READY",
    "baseModel": "baseModels/mobilenetv2-features",
    "concepts": ["cardboard", "glass", "metal", "paper", "plastic", "trash"],
    "thresholds": [0.224, 0.328, 0.415, 0.344, 0.452, 0.786],
    "inputCount": "150",
    "datasetSha256": "aa99d40c17a4e31b1c5f9cf075bfbed1453c983ede5c540fd20f3a977f026437",
    "summary": {"accuracy": 0.753, "macroF1": 0.754, "macroPrecision": 0.765, "macroRecall": 0.753},
    "note": "25 pictures each",
    "production": False,
    "createTime": "2026-11-22T23:03:02.865136Z",
    "tier": "HEAD_TIER_LINEAR",
    "thresholdAim": {"bestF1": True},
    "training": {
        "tier": "HEAD_TIER_AUTO",
        "thresholds": {"bestF1": True},
        "evaluation": "EVALUATION_METHOD_OUT_OF_FOLD",
        "mode": "TRAINING_MODE_HEAD",
        "maxEpochs": 0,
    },
}

VERSION_EXAMPLES: Mapping[str, Example] = {
    "GetModelCard": Example(
        None,
        {
            "name": "apps/kitchen/models/sorter/versions/3/card",
            "modelVersion": _VERSION,
            "model": {"name": "apps/kitchen/models/sorter", "displayName": "sorter", "type": "MODEL_TYPE_MULTI_CLASS"},
            "displayNames": ["cardboard", "glass", "metal", "paper", "plastic", "trash"],
            "baseModel": {
                "name": "baseModels/mobilenetv2-features",
                "displayName": "mobilenetv2-features",
                "licence": "Apache-2.0",
                "dimensions": 1280,
            },
            "cautions": [
                "Its figures hold for pictures like those it was trained on; "
                "another camera, light or place is another exam.",
                "It was examined on 150 pictures only: its figures are rough.",
                "Its scores are off by 7 points on average: do not read them as exact chances.",
                "It stands on the base network mobilenetv2-features, whose licence (Apache-2.0) holds for its use too.",
            ],
        },
    ),
    "GetEvaluation": Example(
        None,
        {
            "name": "apps/kitchen/models/sorter/versions/3/evaluation",
            "method": "5-fold out-of-fold",
            "inputCount": "150",
            "accuracy": 0.753,
            "top5Accuracy": 0.987,
            "macroPrecision": 0.765,
            "macroRecall": 0.753,
            "macroF1": 0.754,
            "expectedCalibrationError": 0.07,
            "evaluationMethod": "EVALUATION_METHOD_OUT_OF_FOLD",
            "resamples": 1000,
            "intervals": {"accuracy": {"low": 0.683, "high": 0.824}, "macro_f1": {"low": 0.683, "high": 0.821}},
            "concepts": [
                {
                    "concept": "cardboard",
                    "positives": "25",
                    "negatives": "125",
                    "precision": 0.88,
                    "recall": 0.88,
                    "f1": 0.88,
                    "rocAuc": 0.993,
                    "averagePrecision": 0.972,
                    "threshold": 0.224,
                    "intervals": {"f1": {"low": 0.769, "high": 0.966}},
                }
            ],
            "confusion": [
                {"actual": "cardboard", "predicted": "cardboard", "count": "22"},
                {"actual": "cardboard", "predicted": "paper", "count": "1"},
            ],
            "calibration": [{"low": 0.933, "high": 1, "count": "47", "confidence": 0.981, "accuracy": 0.957}],
        },
    ),
    "GetEvaluationCurves": Example(
        None,
        {
            "curves": [
                {
                    "concept": "glass",
                    "points": [
                        {"threshold": 0.978, "precision": 1, "recall": 0.04, "falsePositiveRate": 0},
                        {"threshold": 0.608, "precision": 0.8, "recall": 0.48, "falsePositiveRate": 0.024},
                        {"threshold": 0.203, "precision": 0.606, "recall": 0.8, "falsePositiveRate": 0.104},
                    ],
                }
            ]
        },
    ),
    "ListEvaluatedInputs": Example(
        None,
        {
            "evaluatedInputs": [
                {
                    "input": "apps/kitchen/inputs/0be50c0e-e214-45c5-8d63-63f2b1ae13f6",
                    "actualConcepts": ["glass"],
                    "predictedConcepts": ["plastic"],
                    "correct": False,
                    "confidence": 0.986,
                    "scores": [{"concept": "plastic", "value": 0.986}, {"concept": "glass", "value": 0.012}],
                    "fold": 1,
                }
            ],
            "nextPageToken": "hLTf_Ii1JA4VojwOGbAA7lsxXQ",
            "totalSize": "37",
        },
    ),
    "CompareModelVersions": Example(
        None,
        {
            "modelVersion": "apps/kitchen/models/sorter/versions/2",
            "otherModelVersion": "apps/kitchen/models/sorter/versions/3",
            "inputCount": "60",
            "onlyFirstCount": "0",
            "onlyOtherCount": "90",
            "figure": "accuracy",
            "value": 0.75,
            "otherValue": 0.75,
            "differenceInterval": {"low": -0.115, "high": 0.116},
            "pValue": 1,
            "verdict": "COMPARISON_VERDICT_UNDECIDED",
            "fixedCount": "6",
            "brokenCount": "6",
            "concepts": [
                {
                    "concept": "plastic",
                    "positives": "10",
                    "f1": 0.571,
                    "otherF1": 0.692,
                    "differenceInterval": {"low": -0.117, "high": 0.407},
                }
            ],
        },
    ),
    "ListChangedInputs": Example(
        None,
        {
            "changedInputs": [
                {
                    "change": "INPUT_CHANGE_BROKEN",
                    "first": {
                        "input": "apps/kitchen/inputs/4ebd00c3-6210-4e4b-be08-dc4a3bdba8d5",
                        "actualConcepts": ["metal"],
                        "predictedConcepts": ["metal"],
                        "correct": True,
                        "confidence": 0.561,
                        "scores": [{"concept": "metal", "value": 0.561}, {"concept": "trash", "value": 0.369}],
                        "fold": 4,
                    },
                    "other": {
                        "input": "apps/kitchen/inputs/4ebd00c3-6210-4e4b-be08-dc4a3bdba8d5",
                        "actualConcepts": ["metal"],
                        "predictedConcepts": ["trash"],
                        "correct": False,
                        "confidence": 0.952,
                        "scores": [{"concept": "trash", "value": 0.952}, {"concept": "metal", "value": 0.037}],
                        "fold": 1,
                    },
                }
            ],
            "nextPageToken": "06e8iAEByjfB87B8PBbIj1sxXQ",
            "totalSize": "12",
        },
    ),
    "ComputeLearningCurve": Example(
        {},
        {
            "name": "apps/kitchen/models/sorter/versions/3/learningCurve",
            "state": "LEARNING_CURVE_STATE_QUEUED",
            "createTime": "2026-11-22T23:09:41.265981Z",
        },
    ),
    "GetLearningCurve": Example(
        None,
        {
            "name": "apps/kitchen/models/sorter/versions/3/learningCurve",
            "state": "LEARNING_CURVE_STATE_READY",
            "figure": "accuracy",
            "points": [
                {"images": "60", "value": 0.711, "range": {"low": 0.667, "high": 0.733}},
                {"images": "120", "value": 0.789, "range": {"low": 0.667, "high": 0.867}},
            ],
            "expected": [{"images": "300", "value": 0.842, "range": {"low": 0.697, "high": 0.966}}],
            "concepts": [
                {
                    "concept": "plastic",
                    "points": [{"images": "19", "value": 0.679, "range": {"low": 0.4, "high": 0.909}}],
                    "expected": [{"images": "48", "value": 0.762, "range": {"low": 0.43, "high": 1}}],
                }
            ],
            "createTime": "2026-11-22T23:09:41.265981Z",
            "endTime": "2026-11-22T23:12:13.755152Z",
        },
    ),
    "ListModelVersionInputs": Example(
        None,
        {
            "inputs": [
                {
                    "input": "apps/kitchen/inputs/084269ba-f166-4123-b580-e2ccf6645200",
                    "uid": "084269ba-f166-4123-b580-e2ccf6645200",
                    "sha256": "de704b0c220ec44a71af0692be977341bb2100aad381ffb18ed4b7b2a0833f26",
                    "annotations": [{"concept": "cardboard", "positive": True, "actor": ""}],
                    "fold": 0,
                }
            ],
            "nextPageToken": "fBPvTxKeHXlSKAQ6sTXkD1sxXQ",
            "totalSize": "150",
            "datasetSha256": "aa99d40c17a4e31b1c5f9cf075bfbed1453c983ede5c540fd20f3a977f026437",
        },
    ),
    "UpdateModelVersion": Example(
        {"note": "25 pictures each", "thresholdAim": {"minPrecision": 0.9}},
        {
            **_VERSION,
            "thresholds": [0.382, 0.666, 0.666, 0.456, 0.755, 0.788],
            "thresholdAim": {"minPrecision": 0.9},
        },
    ),
    "ListSuggestions": Example(
        None,
        {
            "suggestions": [
                {
                    "name": "apps/kitchen/models/sorter/versions/4/suggestions/1",
                    "kind": "SUGGESTION_KIND_WRONG_LABEL",
                    "message": "labelled plastic, but looks like glass",
                    "score": 0.991,
                    "concept": "plastic",
                    "otherConcept": "glass",
                    "input": "apps/kitchen/inputs/a601336d-dae9-4bad-8040-861b218bab97",
                    "relatedInputs": [],
                    "current": [{"concept": "plastic", "positive": True}],
                    "desired": [{"concept": "glass", "positive": True}],
                    "actions": [
                        "SUGGESTION_ACTION_APPLY",
                        "SUGGESTION_ACTION_REMOVE_LABELS",
                        "SUGGESTION_ACTION_DISMISS",
                    ],
                    "state": "SUGGESTION_STATE_OPEN",
                    "actor": "",
                    "inputsToLabel": [],
                }
            ],
            "nextPageToken": "DX0tekTlbFCnMu6VvpBdgVsxXQ",
            "pending": False,
            "counts": [{"kind": "SUGGESTION_KIND_WRONG_LABEL", "open": 7, "total": 7}],
        },
    ),
    "AcceptSuggestions": Example(
        {"all": {"kind": "SUGGESTION_KIND_WRONG_LABEL"}},
        {
            "results": [
                {
                    "suggestion": "apps/kitchen/models/sorter/versions/4/suggestions/2",
                    "status": {"code": 0, "message": "", "details": []},
                    "state": "SUGGESTION_STATE_ACCEPTED",
                    "labelNextSuggestions": [],
                }
            ],
            "acceptedCount": 4,
            "skippedCount": 0,
        },
    ),
    # The beginning of the archive's first piece, which is a ZIP.
    "ExportModelVersion": Example(None, {"item": {"data": "UEsDBBQAAAAIAAAAIQA="}}),
    "RollbackModel": Example(
        {},
        {
            "name": "apps/kitchen/models/sorter",
            "displayName": "sorter",
            "type": "MODEL_TYPE_MULTI_CLASS",
            "productionVersion": 3,
            "pinned": True,
            "latestVersion": 4,
            "retrainAfterAnnotations": 20,
        },
    ),
}
"""Examples by RPC name."""
