"""General's concepts between the wire, where they have names, and the database, where they are numbers."""

from collections.abc import Mapping

from lensmith_api.v1.concept_score_pb2 import ConceptScore
from lensmith_api.v1.inference_service_pb2 import EmbedResponse
from lensmith_dataset.store.general import GeneralConcepts
from lensmith_platform.errors import InvalidInputError
from lensmith_platform.resource_names import build, parse
from lensmith_vision.general import MODEL_ID, hierarchy

_VERSION = "apps/{app}/models/{model}/versions/{version}"


def general_from_response(response: EmbedResponse) -> Mapping[str, GeneralConcepts]:
    """Return what General saw, by the id of the query; nothing where it did not look.

    Concepts that only a newer inference knows are left out.
    """
    if not response.general_version:
        return {}
    try:
        number = int(parse(_VERSION, response.general_version)["version"])
    except (InvalidInputError, ValueError):
        return {}
    concepts = hierarchy()
    seen: dict[str, GeneralConcepts] = {}
    for embedding in response.embeddings:
        known = [score for score in embedding.general_concepts if score.concept in concepts.place]
        if known:
            seen[embedding.id] = GeneralConcepts(
                number,
                [concepts.concepts[concepts.place[score.concept]].synset for score in known],
                [score.value for score in known],
                [score.predicted for score in known],
            )
    return seen


def general_to_proto(seen: GeneralConcepts) -> tuple[str, list[ConceptScore]]:
    """Return the version that saw an input, and what it saw."""
    by_synset = hierarchy().by_synset
    scores = [
        ConceptScore(concept=concept.id, display_name=concept.name, value=value, predicted=predicted)
        for synset, value, predicted in zip(seen.synsets, seen.scores, seen.predicted, strict=True)
        if (concept := by_synset.get(synset)) is not None
    ]
    return build(_VERSION, app="main", model=MODEL_ID, version=str(seen.version)), scores
