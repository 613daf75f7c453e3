//! Cursors of lists: as they are sealed, and through the whole application.
//!
//! The first byte of an input says which list it is and who asks; what is up to the first line break is the cursor, with
//! `<own>` and its like for one that was sealed; the rest is a query beside it. See [`cursor`].

use std::sync::LazyLock;

use leadr_auth_domain::{Keyring, PepperId};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde_json::Value;

use crate::Came;
use crate::world::{Answer, World, text, with_world};

pub(crate) const REACHES: &[&str] = &["opened", "page", "refused", "another's", "altered"];

const LISTS: [&str; 3] = ["/v1/api-keys", "/v1/accounts", "/v1/audit"];

static RING: LazyLock<Keyring> = LazyLock::new(|| {
    let id = |text| PepperId::parse(text).unwrap();
    let secrets = [
        (id("old"), "the old secret, of 32 bytes or so"),
        (id("new"), "the new secret, of 32 bytes or so"),
    ];
    Keyring::new(&id("new"), secrets).unwrap()
});

/// Seals and opens cursors, and asks for lists with them.
pub fn cursor(data: &[u8]) -> Came {
    let Some((kind, rest)) = data.split_first() else {
        return "nothing".into();
    };
    let end = rest.iter().position(|byte| *byte == b'\n');
    let (cursor, query) = rest.split_at(end.unwrap_or(rest.len()));
    let query = query.strip_prefix(b"\n").unwrap_or(query);
    match kind % 4 {
        0 => sealed(cursor, query),
        list => with_world(|world| listed(world, usize::from(list - 1), *kind, cursor, query)),
    }
}

/// A text is the cursor of the list and the place that it was sealed for, and of no other; and no other text is.
fn sealed(list: &[u8], place: &[u8]) -> Came {
    let (Ok(list), Ok(place)) = (std::str::from_utf8(list), std::str::from_utf8(place)) else {
        return "no text".into();
    };
    for text in [list, place] {
        assert_eq!(RING.open_cursor(list, text), None, "{text:?} opens");
    }
    let cursor = RING.seal_cursor(list, place);
    assert!(
        cursor
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    );
    assert_eq!(RING.open_cursor(list, &cursor).as_deref(), Some(place));
    for other in [
        format!("{list} "),
        list.to_uppercase(),
        place.to_owned(),
        String::new(),
    ] {
        let opened = RING.open_cursor(&other, &cursor);
        assert_eq!(
            opened.is_some(),
            other == list,
            "{list:?} {place:?} {other:?}"
        );
    }
    // One bit of one character, which the input chooses.
    let chosen = place.len() * 31 + list.bytes().map(usize::from).sum::<usize>();
    let mut altered = cursor.clone().into_bytes();
    let at = chosen % altered.len();
    altered[at] ^= 1 << (chosen % 7);
    let altered = String::from_utf8(altered).unwrap();
    assert_eq!(RING.open_cursor(list, &altered), None, "{cursor} {altered}");
    "opened".into()
}

/// What a cursor in a request is.
#[derive(PartialEq, Eq)]
enum Sent {
    /// Anything.
    Anything,
    /// The one of this very list.
    Own,
    /// One that was sealed for another list, or for somebody else.
    Foreign,
    /// The one of this very list, but for a bit.
    Altered,
}

fn listed(world: &mut World, list: usize, kind: u8, cursor: &[u8], query: &[u8]) -> Came {
    let path = LISTS[list];
    let holder = world.one.clone();
    // As the client of the first page would go on from there: what else it asks for has to be the same.
    let asked = if kind & 0b0100 == 0 {
        "limit=1"
    } else {
        "limit=1&sort=name"
    };
    let asked = if path == "/v1/audit" {
        "limit=1"
    } else {
        asked
    };
    let (sent, cursor) = match cursor {
        b"<own>" => (Sent::Own, next(world, path, asked, &holder.key)),
        b"<other list>" => (
            Sent::Foreign,
            next(world, LISTS[(list + 1) % 3], "limit=1", ""),
        ),
        b"<two>" => {
            let key = world.two.key.clone();
            (Sent::Foreign, next(world, path, asked, &key))
        }
        b"<operator>" => (Sent::Foreign, next(world, path, asked, "")),
        b"<altered>" => {
            let mut cursor = next(world, path, asked, &holder.key).into_bytes();
            let at = usize::from(kind >> 2) * 7 + query.len();
            if let Some(at) = at.checked_rem(cursor.len()) {
                cursor[at] = if cursor[at] == b'A' { b'B' } else { b'A' };
            }
            (Sent::Altered, String::from_utf8(cursor).unwrap())
        }
        bytes => {
            let encoded = percent_encode(bytes, NON_ALPHANUMERIC).to_string();
            (Sent::Anything, encoded)
        }
    };
    let query = world.filled_in(query);
    let query = percent_encode(&query, QUERY).to_string();
    let address = match (
        sent == Sent::Anything && cursor.is_empty(),
        query.is_empty(),
    ) {
        (true, _) => format!("{path}?{query}"),
        (false, true) => format!("{path}?{asked}&cursor={cursor}"),
        (false, false) => format!("{path}?{asked}&cursor={cursor}&{query}"),
    };
    // What is no address is refused by whoever reads the request, before it gets here.
    if address.parse::<actix_web::http::Uri>().is_err() {
        return "no address".into();
    }
    let answer = world.get(&address, &holder.key);
    // A foreign account may be named, and that is another refusal.
    assert!(
        [200, 403, 422].contains(&answer.status),
        "{address} {answer:?}"
    );
    world.assert_unchanged();
    if answer.status == 200 {
        only_own(&answer, &holder.account, world);
    }
    match sent {
        Sent::Own | Sent::Foreign | Sent::Altered if cursor.is_empty() => "no next page".into(),
        Sent::Own if query.is_empty() => {
            assert_eq!(answer.status, 200, "{address} {answer:?}");
            "page".into()
        }
        Sent::Own => "asked more".into(),
        Sent::Foreign => {
            assert_ne!(answer.status, 200, "{address} {answer:?}");
            "another's".into()
        }
        Sent::Altered => {
            assert_ne!(answer.status, 200, "{address} {answer:?}");
            "altered".into()
        }
        Sent::Anything if cursor.is_empty() && answer.status == 200 => "page".into(),
        Sent::Anything => {
            assert!(
                cursor.is_empty() || answer.status != 200,
                "{address} {answer:?}"
            );
            "refused".into()
        }
    }
}

/// What an address cannot have as it is, in a query.
const QUERY: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The cursor of the next page; empty where there is none. No key is the operator's.
fn next(world: &mut World, path: &str, asked: &str, key: &str) -> String {
    let operator = world.operator.key.clone();
    let is_operator = key.is_empty();
    let whose = match path {
        "/v1/api-keys" if is_operator => format!("&account_id={}", world.two.account),
        _ => String::new(),
    };
    let key = if is_operator { &operator } else { key };
    let answer = world.get(&format!("{path}?{asked}{whose}"), key);
    assert_eq!(answer.status, 200, "{answer:?}");
    let link = answer.header("link").and_then(|link| {
        let (address, _) = link.strip_prefix('<')?.split_once('>')?;
        let (_, cursor) = address.split_once("cursor=")?;
        Some(
            percent_decode_str(cursor)
                .decode_utf8()
                .unwrap()
                .into_owned(),
        )
    });
    link.unwrap_or_default()
}

/// A tenant's list has nothing but its own.
fn only_own(answer: &Answer, account: &str, world: &World) {
    let body = answer.json();
    let rows = body
        .as_array()
        .or_else(|| body["entries"].as_array())
        .unwrap();
    let owner = |row: &Value| {
        let own_id = row.get("slug").is_some();
        text(if own_id {
            &row["id"]
        } else {
            &row["account_id"]
        })
    };
    for row in rows {
        assert_eq!(owner(row), account, "{row}");
    }
    let shown = String::from_utf8_lossy(&answer.body);
    for foreign in [&world.two, &world.operator] {
        let is_shown = shown.contains(&foreign.account) || shown.contains(&foreign.key_id);
        // A trail says who did something to one's own.
        let is_trail = body.is_object() && foreign.key_id == world.operator.key_id;
        assert!(!is_shown || is_trail, "{shown}");
    }
}
