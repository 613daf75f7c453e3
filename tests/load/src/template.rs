//! Requests with places in them that are filled anew each time.

use std::fs;
use std::rc::Rc;

use crate::Outcome;
use crate::chance::Chance;

/// Keys that exist, and their ids, as lines `<key> <id>`; the ids alone where there is no key.
#[derive(Debug)]
pub(crate) struct Pool {
    text: String,
    /// Where each line's key and id are.
    lines: Vec<(u32, u32)>,
}

const KEY: usize = 47;
const ID: usize = 36;

impl Pool {
    /// The first `take` lines of a file, or all.
    pub(crate) fn read(path: &str, take: Option<usize>) -> Outcome<Rc<Self>> {
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let mut lines = Vec::new();
        let mut at = 0;
        for line in text.lines().take(take.unwrap_or(usize::MAX)) {
            if line.len() != KEY + 1 + ID {
                return Err(format!("{path}: a line is not a key and an id").into());
            }
            lines.push((u32::try_from(at)?, u32::try_from(at + KEY + 1)?));
            at += line.len() + 1;
        }
        if lines.is_empty() {
            return Err(format!("{path}: no keys").into());
        }
        Ok(Rc::new(Self { text, lines }))
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    fn part(&self, line: usize, part: Part) -> &[u8] {
        let Some((key, id)) = self.lines.get(line) else {
            return b"";
        };
        let (start, length) = match part {
            Part::Id => (*id, ID),
            _ => (*key, KEY),
        };
        let start = usize::try_from(start).unwrap_or_default();
        let bytes = self.text.as_bytes().get(start..start + length);
        bytes.unwrap_or_default()
    }
}

/// A piece of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// What stands in the template, from here to there.
    Text(usize, usize),
    /// A key of the pool.
    Key,
    /// An id of the pool.
    Id,
    /// A key that nobody has and that was never sent before.
    Fresh,
    /// Eight letters that were hardly sent before.
    Word,
}

/// How they are written.
const PLACES: [(&str, Part); 4] = [
    ("{key}", Part::Key),
    ("{id}", Part::Id),
    ("{fresh}", Part::Fresh),
    ("{word}", Part::Word),
];

/// In which order keys are taken from the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Random,
    Sequential,
}

/// A request with `{key}`, `{id}`, `{fresh}` and `{word}` in it; each stands for another each time.
#[derive(Debug)]
pub(crate) struct Template {
    text: String,
    parts: Vec<Part>,
    pool: Option<Rc<Pool>>,
    order: Order,
    next: usize,
}

impl Template {
    pub(crate) fn new(text: &str, pool: Option<Rc<Pool>>, order: Order) -> Outcome<Self> {
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let found = PLACES
                .iter()
                .filter_map(|(name, part)| Some((rest.find(name)?, name.len(), *part)))
                .min_by_key(|(place, ..)| *place);
            let Some((place, length, part)) = found else {
                parts.push(Part::Text(at, text.len()));
                break;
            };
            parts.push(Part::Text(at, at + place));
            parts.push(part);
            at += place + length;
        }
        if pool.is_none()
            && parts
                .iter()
                .any(|part| matches!(part, Part::Key | Part::Id))
        {
            return Err("a template asks for keys, and there are none".into());
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
            pool,
            order,
            next: 0,
        })
    }

    /// Appends the next request.
    pub(crate) fn render(&mut self, chance: &mut Chance, to: &mut Vec<u8>) {
        for &part in &self.parts {
            match part {
                Part::Text(from, until) => {
                    to.extend_from_slice(self.text.as_bytes().get(from..until).unwrap_or_default());
                }
                Part::Key | Part::Id => {
                    let Some(pool) = &self.pool else { continue };
                    let line = match self.order {
                        Order::Random => chance.index(pool.len()),
                        Order::Sequential => {
                            let line = self.next;
                            self.next = (line + 1) % pool.len();
                            line
                        }
                    };
                    to.extend_from_slice(pool.part(line, part));
                }
                Part::Fresh => {
                    to.extend_from_slice(b"ldr_");
                    chance.letters(42, to);
                    // The last character has two bits to spare, which have to be zeroes.
                    to.push(b'A');
                }
                Part::Word => chance.letters(8, to),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &mut Template) -> String {
        let mut bytes = Vec::new();
        template.render(&mut Chance::new(1), &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn places_are_filled() {
        let (key, id) = ("k".repeat(KEY), "i".repeat(ID));
        let path = std::env::temp_dir().join(format!("leadr-auth-load-{}", std::process::id()));
        fs::write(&path, format!("{key} {id}\n")).unwrap();
        let pool = Pool::read(path.to_str().unwrap(), None).unwrap();
        fs::remove_file(&path).unwrap();
        let mut template = Template::new("a {key} b {id}", Some(pool), Order::Sequential).unwrap();
        assert_eq!(rendered(&mut template), format!("a {key} b {id}"));
        let mut template = Template::new("{fresh}{word}!", None, Order::Random).unwrap();
        let text = rendered(&mut template);
        assert!(leadr_auth_domain::PlainKey::parse(text.get(..KEY).unwrap()).is_ok());
        assert_eq!(text.len(), KEY + 8 + 1);
        assert!(Template::new("{key}", None, Order::Random).is_err());
    }
}
