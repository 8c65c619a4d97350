//! How wide each column of a table is on a terminal: pure.
//!
//! Where there is room for all, each column is as wide as its content. Else, one after the
//! other: columns that say what another command says too are left out; sentences wrap; long
//! names, and times between day and hour.

/// One column, and how wide its content is.
pub(super) struct Column {
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

/// What `(sentences, names, times)` are not to fall short of, from comfortable to barely legible.
const ATTEMPTS: [(u16, u16, u16); 4] = [
    (24, u16::MAX, u16::MAX),
    (24, 20, u16::MAX),
    (20, 16, DAY),
    (12, 8, DAY),
];

impl Column {
    pub(super) fn new(heading: &str, width: u16) -> Self {
        let kind = match heading {
            "WHY" | "MESSAGE" | "REPAIRS" | "WHAT" | "WHAT HAPPENED" | "OPENS" => Kind::Sentence,
            "DOMAIN" | "NAME" | "PROVIDER" => Kind::Name,
            "WHEN" | "FIRST USED" | "EXPORTED" | "KEPT AT" | "LAST CHANGE" => Kind::Time,
            "UUID" => Kind::Spare(0),
            "FILE" => Kind::Spare(1),
            "CREATED" => Kind::Spare(2),
            "VERSION" | "SIZE" => Kind::Spare(3),
            _ => Kind::Whole,
        };
        Self { kind, width }
    }

    /// How narrow it may become.
    fn least(&self, (sentence, name, time): (u16, u16, u16)) -> u16 {
        self.width.min(match self.kind {
            Kind::Sentence => sentence,
            Kind::Name => name,
            Kind::Time => time,
            Kind::Spare(_) | Kind::Whole => u16::MAX,
        })
    }
}

/// The width of each column, `None` for one that is left out. Where nothing helps the table is
/// wider than the terminal.
pub(super) fn layout(columns: &[Column], terminal: u16, gap: u16) -> Vec<Option<u16>> {
    let mut shown: Vec<&Column> = columns.iter().collect();
    let mut attempts = ATTEMPTS.into_iter();
    let mut attempt = attempts.next().unwrap_or_default();
    while room(&shown, attempt, terminal, gap).is_none() {
        let spare = shown
            .iter()
            .enumerate()
            .filter_map(|(at, column)| match column.kind {
                Kind::Spare(rank) => Some((rank, at)),
                _ => None,
            })
            .min();
        if let Some((_, at)) = spare {
            shown.remove(at);
        } else if let Some(next) = attempts.next() {
            attempt = next;
        } else {
            break;
        }
    }
    let left = room(&shown, attempt, terminal, gap).unwrap_or(0);
    let widths = spread(&shown, attempt, left);
    columns
        .iter()
        .map(|column| {
            let at = shown
                .iter()
                .position(|shown| std::ptr::eq(*shown, column))?;
            Some(widths[at])
        })
        .collect()
}

/// What is left of the terminal when each column is as narrow as it may be.
fn room(shown: &[&Column], attempt: (u16, u16, u16), terminal: u16, gap: u16) -> Option<u16> {
    let gaps = gap.saturating_mul(u16::try_from(shown.len().saturating_sub(1)).ok()?);
    shown
        .iter()
        .map(|column| column.least(attempt))
        .try_fold(terminal.checked_sub(gaps)?, u16::checked_sub)
}

/// Gives the room to the columns that need it most. A time has all of its width, or that of a day.
fn spread(shown: &[&Column], attempt: (u16, u16, u16), room: u16) -> Vec<u16> {
    let mut widths: Vec<u16> = shown.iter().map(|column| column.least(attempt)).collect();
    for _ in 0..room {
        let need = |at: &usize| 256 * u32::from(shown[*at].width) / u32::from(widths[*at].max(1));
        let needy = (0..shown.len())
            .filter(|&at| widths[at] < shown[at].width && shown[at].kind != Kind::Time);
        let Some(neediest) = needy.max_by_key(need) else {
            break;
        };
        widths[neediest] += 1;
    }
    widths
}
