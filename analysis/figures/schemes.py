"""One drawing for a light and a dark page: a light colour is chosen together with its dark one.

A page swaps the colours of an SVG by these pairs, so that a figure is drawn and stored once.
"""

from matplotlib.colors import to_hex, to_rgb

Colour = tuple[float, float, float]
pairs: dict[str, str] = {}  # of the active style(): light colour -> dark colour, as #rrggbb


def pair(light: Colour, dark: Colour) -> Colour:
    """Takes note of the two, and returns the colour to draw with.

    That is the light one; or one that looks the same, if it stands for another dark colour
    already.
    """
    found, wanted = light, to_hex(dark)
    while pairs.setdefault(to_hex(found), wanted) != wanted:
        found = _neighbour(found)
    return found


def dark_shade(colour: Colour) -> Colour:
    """Colour of a dark page in place of another: by default the same."""
    red, green, blue = to_rgb(pairs.get(to_hex(colour), colour))
    return (red, green, blue)


def _neighbour(colour: Colour) -> Colour:
    """Blue one step of 255 higher, around from 255 to 250."""
    red, green, blue = to_rgb(to_hex(colour))
    return (red, green, blue + 1 / 255 if blue < 1 else 250 / 255)
