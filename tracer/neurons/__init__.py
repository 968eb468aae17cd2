"""Knowledge neurons: integrated gradients over the MLPs' inner activations, and acting on single neurons."""

from .attribution import NeuronAttribution
from .effects import amplify, neuron_effects, random_neurons, set_to, summarise_effects, suppress
from .effects_result import NeuronEffects
from .selection import attribute_neurons, knowledge_neurons, refine

__all__ = [
    "NeuronAttribution",
    "NeuronEffects",
    "amplify",
    "attribute_neurons",
    "knowledge_neurons",
    "neuron_effects",
    "random_neurons",
    "refine",
    "set_to",
    "summarise_effects",
    "suppress",
]
