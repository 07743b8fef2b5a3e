"""Where images come from."""

from glocal.data.arrays import ArraySource, ConcatSource
from glocal.data.filelist import FileListSource
from glocal.data.folder import FolderSource
from glocal.data.images import RawImage
from glocal.data.inventory import changes, inventory
from glocal.data.open import code_of, describe, describe_spec, has_split, listed, open_source
from glocal.data.parts import PartsSample, PartsWorld
from glocal.data.source import Groups, ImageSource, Keypoints, OpenImage, Unreadable
from glocal.data.stream import Stream
from glocal.data.subset import Subset, split_by

__all__ = [
    "ArraySource", "ConcatSource", "FileListSource", "FolderSource", "Groups", "ImageSource", "Keypoints",
    "OpenImage", "PartsSample", "PartsWorld", "RawImage", "Stream", "Subset", "Unreadable", "changes", "code_of",
    "describe", "describe_spec", "has_split", "inventory", "listed", "open_source", "split_by",
]  # fmt: skip
