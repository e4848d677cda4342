"""The compressed model: a folder, an engine and an interface that need neither torch nor training.

from metasd.compressed import CompressedModel
model = CompressedModel.from_pretrained("models/mine")
model.predict(head="Ada Berg", relation="parent_of", k=3)  # [(label, score), ...]
"""

from .model import Answer, CompressedModel, Query
from .query_files import answer_file
from .table import CODECS, Table

__all__ = ["CODECS", "Answer", "CompressedModel", "Query", "Table", "answer_file"]
