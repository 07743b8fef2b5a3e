"""Language models behind an endpoint: what they are asked of images, and what is made of their answers."""

from glocal.language.ask import STRATEGIES, Reply, ask_frames
from glocal.language.curate import Checked, check_labels
from glocal.language.endpoint import Endpoint, Question, Unusable
from glocal.language.knowledge import Entity, KnowledgeBase, read_knowledge
from glocal.language.negatives import write_negatives

__all__ = [
    "STRATEGIES", "Checked", "Endpoint", "Entity", "KnowledgeBase", "Question", "Reply", "Unusable", "ask_frames",
    "check_labels", "read_knowledge", "write_negatives",
]  # fmt: skip
