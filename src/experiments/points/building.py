"""Model of a point, as its config says it: for training, and for all that reads a run back."""

from dataclasses import replace

from experiments.data.vocabulary import Vocabulary
from experiments.kernels.ops import Execution
from experiments.models.transformer import Transformer
from experiments.points.point import Draft, Point


def build_model(point: Point | Draft, vocabulary: Vocabulary) -> Transformer:
    """Point's model for these tokens: masked at the ends of documents, if it is to be; its
    tables are read by the config's kernel.
    """
    end = vocabulary.end_of_text if point.config.data.mask_documents else None
    model = replace(point.transformer, document_end=end).build()
    model.set_execution(Execution(kernel=point.config.kernel))
    return model
