//! How wide each column of a table is on a terminal: pure.
//!
//! Where there is room for all, each column is as wide as its content. Else, one after the
//! other: columns that say what another command says too are left out; sentences wrap; long
//! names, and times between day and hour.

/// One column, and how wide its content is.
pub(crate) struct Column {
    kind: Kind,
    width: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sentences, which wrap between words.
    Sentence,
    /// Names, which wrap anywhere, but only where they are long.
    Name,
    /// Day and hour.
    Time,
    /// Left out where there is no room, the lowest number first: `show`, or `--json`, has it.
    Spare(u8),
    /// As it is: words to type, numbers.
    Whole,
}

/// The width of a day.
const DAY: u16 = 10;

/// How much a table gives way.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Spare columns below this rank are left out.
    spare: u8,
    /// What the others are not to fall short of, where their content is wider.
    sentence: u16,
    name: u16,
    time: u16,
}

const fn way(spare: u8, sentence: u16, name: u16, time: u16) -> Way {
    Way {
        spare,
        sentence,
        name,
        time,
    }
}

/// From comfortable to barely legible.
const WAYS: [Way; 9] = [
    way(0, 24, u16::MAX, u16::MAX),
    way(1, 24, u16::MAX, u16::MAX),
    way(2, 24, u16::MAX, u16::MAX),
    way(3, 24, u16::MAX, u16::MAX),
    way(4, 24, u16::MAX, u16::MAX),
    way(4, 24, 20, u16::MAX),
    way(5, 24, 20, u16::MAX),
    way(5, 20, 16, DAY),
    way(5, 12, 8, DAY),
];

impl Column {
    pub(crate) fn new(heading: &str, width: u16) -> Self {
        let kind = match heading {
            "WHY" | "MESSAGE" | "REPAIRS" | "WHAT" | "WHAT HAPPENED" | "OPENS" => Kind::Sentence,
            "DOMAIN" | "NAME" | "PROVIDER" => Kind::Name,
            "WHEN" | "FIRST USED" | "LAST START" | "EXPORTED" | "KEPT AT" | "LAST CHANGE" => {
                Kind::Time
            }
            "UUID" => Kind::Spare(0),
            "FILE" => Kind::Spare(1),
            "CREATED" => Kind::Spare(2),
            "VERSION" | "SIZE" => Kind::Spare(3),
            "KEY" => Kind::Spare(4),
            _ => Kind::Whole,
        };
        Self { kind, width }
    }

    /// How wide it is at least; `None` where it is left out.
    fn least(&self, way: Way) -> Option<u16> {
        let least = match self.kind {
            Kind::Sentence => way.sentence,
            Kind::Name => way.name,
            Kind::Time => way.time,
            Kind::Spare(rank) if rank < way.spare => return None,
            Kind::Spare(_) | Kind::Whole => u16::MAX,
        };
        Some(self.width.min(least))
    }
}

/// The width of each column, `None` for one that is left out. Where nothing helps the table is
/// wider than the terminal.
pub(crate) fn layout(columns: &[Column], terminal: u16, gap: u16) -> Vec<Option<u16>> {
    let mut widths = Vec::new();
    for way in WAYS {
        widths = columns.iter().map(|column| column.least(way)).collect();
        if let Some(room) = room(&widths, terminal, gap) {
            spread(columns, &mut widths, room);
            break;
        }
    }
    widths
}

/// What these widths leave of the terminal.
fn room(widths: &[Option<u16>], terminal: u16, gap: u16) -> Option<u16> {
    let mut shown = widths.iter().flatten();
    let first = terminal.checked_sub(*shown.next()?)?;
    shown.try_fold(first, |room, width| {
        room.checked_sub(gap)?.checked_sub(*width)
    })
}

/// Gives the room to the columns that need it most. A time has all of its width, or that of a day.
fn spread(columns: &[Column], widths: &mut [Option<u16>], room: u16) {
    for _ in 0..room {
        let need = |at: &usize| {
            let width = widths[*at].unwrap_or(0).max(1);
            256 * u32::from(columns[*at].width) / u32::from(width)
        };
        let may_grow = |at: &usize| {
            columns[*at].kind != Kind::Time
                && widths[*at].is_some_and(|width| width < columns[*at].width)
        };
        let Some(neediest) = (0..columns.len()).filter(may_grow).max_by_key(need) else {
            break;
        };
        widths[neediest] = widths[neediest].map(|width| width + 1);
    }
}
