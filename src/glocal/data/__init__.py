"""Where images come from."""

from glocal.data.arrays import ArraySource, ConcatSource
from glocal.data.clips import ClipSource
from glocal.data.filelist import FileListSource
from glocal.data.folder import FolderSource
from glocal.data.images import RawImage
from glocal.data.inventory import changes, inventory
from glocal.data.open import code_of, describe, describe_spec, has_split, is_text, listed, open_source, open_texts
from glocal.data.parts import PartsSample, PartsWorld
from glocal.data.source import Groups, ImageSource, Keypoints, OpenImage, Queries, TextSource, Unreadable
from glocal.data.stream import Stream
from glocal.data.subset import Subset, split_by

__all__ = [
    "ArraySource", "ClipSource", "ConcatSource", "FileListSource", "FolderSource", "Groups", "ImageSource", "Keypoints",
    "OpenImage", "PartsSample", "PartsWorld", "Queries", "RawImage", "Stream", "Subset", "TextSource", "Unreadable",
    "changes", "code_of", "describe", "describe_spec", "has_split", "inventory", "is_text", "listed", "open_source",
    "open_texts", "split_by",
]  # fmt: skip
