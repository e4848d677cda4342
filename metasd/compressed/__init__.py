"""The compressed model: a folder, an engine and an interface that need neither torch nor training.

from metasd.compressed import CompressedModel
model = CompressedModel.from_pretrained("models/mine")
model.predict(head="Ada Berg", relation="parent_of", k=3)  # [(label, score), ...]
"""

from .answers import Answer, Answers, Query
from .model import CompressedModel
from .query_files import answer_file, score_file
from .table import CODECS, Table

__all__ = [
    "CODECS",
    "Answer",
    "Answers",
    "CompressedModel",
    "Query",
    "Table",
    "answer_file",
    "score_file",
]
