"""A terminal emulator, as far as these commands need one: draws its screen as SVG."""

import re
from xml.sax.saxutils import escape

# The sixteen colours of a terminal, on a dark background.
GROUND, INK = "#1b1f24", "#d0d7de"
PALETTE = [
    "#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4",
    "#6e7681", "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#f0f6fc",
]
CELL_WIDTH, LINE_HEIGHT, MARGIN, FONT_SIZE = 8.4, 19, 14, 14
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"

CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]")


class Screen:
    """Lines of `(character, style)`; a style is a colour, or None, and whether it is bold."""

    def __init__(self, columns):
        self.columns = columns
        self.lines = [[]]
        self.row = self.column = 0
        self.colour, self.bold = None, False

    def write(self, text):
        for match in CONTROL.finditer(text):
            if match[2]:
                self.control(match[2], [int(n) for n in re.findall(r"\d+", match[1])])
            elif match[0] == "\r":
                self.column = 0
            elif match[0] == "\n":
                self.down()
            else:
                self.put(match[0])

    def put(self, character):
        if self.column == self.columns:
            self.column = 0
            self.down()
        line = self.lines[self.row]
        line.extend([(" ", (None, False))] * (self.column + 1 - len(line)))
        line[self.column] = (character, (self.colour, self.bold))
        self.column += 1

    def down(self):
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])

    def control(self, letter, numbers):
        if letter == "m":
            self.style(numbers or [0])
        elif letter == "K":
            self.lines[self.row] = []
        elif letter == "A":
            self.row = max(0, self.row - (numbers or [1])[0])
        elif letter == "B":
            self.row = min(len(self.lines) - 1, self.row + (numbers or [1])[0])

    def style(self, numbers):
        while numbers:
            number, *numbers = numbers
            if number == 0:
                self.colour, self.bold = None, False
            elif number == 1:
                self.bold = True
            elif number == 22:
                self.bold = False
            elif 30 <= number <= 37:
                self.colour = PALETTE[number - 30]
            elif number == 39:
                self.colour = None
            elif number == 38 and numbers[:1] == [5]:
                self.colour = PALETTE[numbers[1]]
                numbers = numbers[2:]
            else:
                raise ValueError(f"the style {number} is not known here")

    def svg(self, title):
        """The lines as one `<text>` each, with a `<tspan>` for each style."""
        lines = list(self.lines)
        while lines and not lines[-1]:
            lines.pop()
        width = round(self.columns * CELL_WIDTH + 2 * MARGIN)
        height = len(lines) * LINE_HEIGHT + 2 * MARGIN
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="{FONT}" font-size="{FONT_SIZE}">'
        )
        yield f"<title>{escape(title)}</title>"
        yield f'<rect width="{width}" height="{height}" rx="8" fill="{GROUND}"/>'
        for number, line in enumerate(lines):
            baseline = MARGIN + number * LINE_HEIGHT + FONT_SIZE
            spans = "".join(span(*run) for run in runs(line))
            yield f'<text y="{baseline}" fill="{INK}">{spans}</text>'
        yield "</svg>"


def runs(line):
    """Words of one style with single blanks between them: first column, text, style."""
    start = 0
    for column in range(1, len(line) + 1):
        if column == len(line) or line[column][1] != line[start][1]:
            text = "".join(character for character, _ in line[start:column])
            for words in re.finditer(r"\S+(?: \S+)*", text):
                yield start + words.start(), words[0], line[start][1]
            start = column


def span(column, text, style):
    """A run where the grid has it, however wide the reader's font is."""
    colour, bold = style
    x, length = MARGIN + column * CELL_WIDTH, len(text) * CELL_WIDTH
    fill = f' fill="{colour}"' if colour else ""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<tspan x="{x:.1f}" textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs"{fill}{weight}>'
        f"{escape(text)}</tspan>"
    )
