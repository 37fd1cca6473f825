"""Small packages of drawings, in the format of the real ones."""

import json

from vilg.data.styles.catalogue import STYLES

# A rectangle of another size and colour for each emoji and style, so that no two pictures are equal. With all eleven
# styles, the soccer ball is held out, and one style each of butterfly and bat; that of the bat has a sibling in train.
ICONS = {
    "red-apple": "1f34e",
    "red-heart": "2764-fe0f",
    "butterfly": "1f98b",
    "bat": "1f987",
    "soccer-ball": "26bd",
    "rocket": "1f680",
}


def body(number: int, style: int) -> str:
    return (
        f'<rect x="{number}" y="{style % 4}" width="{4 + number}" height="{3 + style}" '
        f'fill="rgb({20 * style},{50 * number},{255 - 20 * style})"/>'
    )


def write_packages(folder, **changes):
    """All eleven packages. changes: {name of a style with _ for -: change of its icons.json}."""
    for number, style in enumerate(STYLES):
        package = folder / f"iconify-json-{style.name}-{style.version}" / "package"
        package.mkdir(parents=True)
        icons = {
            "icons": {name: {"body": body(index, number)} for index, name in enumerate(ICONS)},
            "width": 16,
            "height": 20,
        }
        changes.get(style.name.replace("-", "_"), lambda icons: None)(icons)
        contents = {
            "icons": icons,
            "info": {
                "name": f"The set {style.name}",
                "author": {"name": "Nobody"},
                "license": {"title": "CC BY 4.0", "url": "https://example.org/licence"},
            },
            "package": {"version": style.version},
        }
        if number % 2:  # every second package has no chars.json; its icons are found by their English names
            contents["chars"] = {code_points: name for name, code_points in ICONS.items()}
        for name, content in contents.items():
            (package / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return folder
