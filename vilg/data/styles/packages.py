"""The npm packages with the drawings: fetched with `npm pack`, or brought by hand."""

import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vilg.data.styles.catalogue import STYLES, Style
from vilg.data.styles.names import Emoji
from vilg.errors import UserError
from vilg.progress import Progress

log = logging.getLogger(__name__)

_FILES = ("icons.json", "chars.json", "info.json", "package.json")  # those that are read, of a much larger package
_SECONDS = 300  # for one package


@dataclass(frozen=True)
class Package:
    """The drawings of a style. svgs: {code points: SVG}. Title, author and licence of the set, for the attribution."""

    style: Style
    version: str
    title: str
    author: str
    licence: str
    url: str
    svgs: dict[str, str]


def fetch(folder: Path) -> None:
    """Download the packages that `folder` lacks. Raises UserError."""
    missing = [style for style in STYLES if _find(folder, style) is None]
    if not missing:
        return
    names = " ".join(f"{style.package}@{style.version}" for style in missing)
    if shutil.which("npm") is None:
        raise UserError(
            f"{folder}: {len(missing)} packages of drawings are missing, and npm, which downloads them, is not "
            f"installed; elsewhere, run `npm pack {names}`, unpack each file NAME.tgz into a folder NAME, and name the "
            "folder around them with --packages"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with Progress("npm packages", len(missing)) as progress:
        for style in missing:
            _download(style, folder)
            progress.advance()


def _download(style: Style, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = f"{style.package}@{style.version}"
        command = ["npm", "pack", "--silent", "--pack-destination", scratch, source]
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise UserError(f"npm pack {source}: no answer in {_SECONDS} s; try again, or use --packages") from None
        files = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(files) != 1:
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise UserError(f"npm pack {source}: {reason}; try again, or use --packages")
        package = Path(scratch) / "package"
        package.mkdir()
        with tarfile.open(files[0]) as archive:
            for name in _FILES:
                try:
                    content = archive.extractfile(f"package/{name}")
                except KeyError:  # chars.json does not exist in every package
                    continue
                assert content is not None
                (package / name).write_bytes(content.read())
        target = folder / f"iconify-json-{style.name}-{style.version}"
        target.mkdir(exist_ok=True)
        package.rename(target / "package")


def read(folder: Path, emoji: Iterable[Emoji]) -> list[Package]:
    """All packages in `folder`, which has iconify-json-NAME-VERSION/package. Raises UserError if one is missing or
    damaged. Another version than expected is logged, because then the splits differ.
    """
    wanted = list(emoji)
    missing = [style.package for style in STYLES if _find(folder, style) is None]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing; iconify-json-NAME-VERSION/package expected")
    packages = []
    for style in STYLES:
        path = _find(folder, style)
        assert path is not None
        try:
            packages.append(_read(path, style, wanted))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read as drawings of {style.name} ({error!r})") from None
        if packages[-1].version != style.version:
            log.warning("%s: version %s, but the splits are made for %s", path, packages[-1].version, style.version)
    return packages


def _find(folder: Path, style: Style) -> Path | None:
    """The folder of a package, preferably in the expected version."""
    exact = folder / f"iconify-json-{style.name}-{style.version}" / "package"
    others = sorted(folder.glob(f"iconify-json-{style.name}-[0-9]*/package"))
    return next((path for path in (exact, *others) if (path / "icons.json").is_file()), None)


def _read(path: Path, style: Style, emoji: list[Emoji]) -> Package:
    icons, info, package = (json.loads((path / name).read_text("utf-8")) for name in ("icons.json", *_FILES[2:]))
    names = json.loads(file.read_text("utf-8")) if (file := path / "chars.json").is_file() else {}
    by_code_points = {_without_selectors(code_points): name for code_points, name in names.items()}
    svgs = {
        one.code_points: svg
        for one in emoji
        if (svg := _svg(icons, _icon_name(one, by_code_points, icons))) is not None
    }
    licence = info["license"]
    return Package(
        style, package["version"], info["name"], info["author"]["name"], licence["title"], licence["url"], svgs
    )


def _without_selectors(code_points: str) -> str:
    return "-".join(part.lstrip("0") for part in code_points.lower().split("-") if part != "fe0f")


def _icon_name(emoji: Emoji, by_code_points: dict[str, str], icons: dict) -> str | None:
    if emoji.code_points in by_code_points:
        return by_code_points[emoji.code_points]
    for name in emoji.slugs:
        if name in icons["icons"] or name in icons.get("aliases", {}):
            return name
        if (joined := name.replace("-", "")) in icons["icons"]:  # as fxemoji writes names
            return joined
    return None


def _svg(icons: dict, name: str | None) -> str | None:
    aliases, seen = icons.get("aliases", {}), set()
    while name in aliases and name not in seen:
        seen.add(name)
        name = aliases[name]["parent"]
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    left, top = (icon.get(side, icons.get(side, 0)) for side in ("left", "top"))
    body = icon["body"].replace("currentColor", "#000")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="128" height="128">{body}</svg>'
    )
