"""General: what any picture shows, in everyday words.

A network that tells the thousand classes of ImageNet apart knows more than these classes: a German shepherd is also a
shepherd dog, a dog, a mammal, an animal. General's concepts are the classes ("leaves") and everything that they are a
kind of; the probability of a concept is the sum over the leaves below it. `lensmith_vision.general.fitting` fits what
makes a network's numbers probabilities; it stands apart because serving does not need it.
"""

from lensmith_vision.general.calibration import CALIBRATION_FILE, Calibration, calibration_from_json
from lensmith_vision.general.concepts import LEAVES, MODEL_ID, TAXONOMY, Concept, ConceptSums, Hierarchy, hierarchy
from lensmith_vision.general.evaluation import GeneralEvaluation, evaluate, true_concepts

__all__ = [
    "CALIBRATION_FILE",
    "LEAVES",
    "MODEL_ID",
    "TAXONOMY",
    "Calibration",
    "Concept",
    "ConceptSums",
    "GeneralEvaluation",
    "Hierarchy",
    "calibration_from_json",
    "evaluate",
    "hierarchy",
    "true_concepts",
]
