"""`video:FILE`: the frames of a film as images, decoded when they are asked for."""

from fractions import Fraction
from pathlib import Path
from typing import Any

from glocal.data.files import existing, shown
from glocal.data.images import DrawnImage
from glocal.data.source import ImageSource, Unreadable
from glocal.errors import UsageError


class VideoSource(ImageSource):
    """All frames of a film in the order of time; a frame is called by its time, 0:01:02.500.

    Needs PyAV, `pip install glocal[video]`.

    Args:
        path: of the file.

    Raises:
        UsageError: if it is not there, is no film, or PyAV is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = existing(Path(path))
        self.name = shown(self.path.name)
        av = _av()
        try:
            with av.open(str(self.path)) as film:
                stream = film.streams.video[0]
                self._size = stream.codec_context.width, stream.codec_context.height
                self._unit = Fraction(stream.time_base or 1)
                self._at = sorted({p.pts for p in film.demux(stream) if p.pts is not None and not p.is_discard})
        except (av.FFmpegError, IndexError, OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as a film ({type(error).__name__})") from error
        if not self._at:
            raise UsageError(f"{path} has no frames")

    def __len__(self) -> int:
        return len(self._at)

    def key(self, i: int) -> str:
        """When frame i is shown, hours:minutes:seconds from the first."""
        ms = round(1000 * (self._at[i] - self._at[0]) * self._unit)
        return f"{ms // 3_600_000}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"

    def open(self, i: int) -> DrawnImage:
        """Frame i, decoded when its pixels are asked for: from the last frame before it that stands alone."""
        return DrawnImage(self._size, lambda: self._decode(i))

    def _decode(self, i: int) -> Any:
        av = _av()
        try:
            with av.open(str(self.path)) as film:
                stream = film.streams.video[0]
                film.seek(self._at[i], stream=stream)
                for frame in film.decode(stream):
                    if frame.pts is not None and frame.pts >= self._at[i]:
                        return frame.to_ndarray(format="rgb24")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Unreadable(f"cannot be decoded: {type(error).__name__}") from error
        raise Unreadable("cannot be decoded: the film ends before")


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UsageError("films need PyAV: pip install 'glocal[video]'; or give a folder of frames") from error
    return av
