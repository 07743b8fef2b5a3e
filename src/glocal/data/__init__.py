"""Where images come from."""

from glocal.data.arrays import ArraySource, ConcatSource
from glocal.data.filelist import FileListSource
from glocal.data.folder import FolderSource
from glocal.data.images import RawImage
from glocal.data.open import code_of, describe, describe_spec, has_split, open_source
from glocal.data.parts import PartsSample, PartsWorld
from glocal.data.source import ImageSource, OpenImage, Unreadable

__all__ = [
    "ArraySource",
    "ConcatSource",
    "FileListSource",
    "FolderSource",
    "ImageSource",
    "OpenImage",
    "PartsSample",
    "PartsWorld",
    "RawImage",
    "Unreadable",
    "code_of",
    "describe",
    "describe_spec",
    "has_split",
    "open_source",
]
