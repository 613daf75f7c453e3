//! `ETag` and `If-Match` (RFC 9110, sections 8.8.3 and 13.1.1): a change is made to the state that its maker has seen, or not at
//! all.
//!
//! A record's tag stands for all that a change can change of it. That a key was used moves `last_used_at` and not the tag:
//! otherwise nobody could change a key that is in use. So the tag is for `If-Match`, and nothing here answers 304.

use actix_web::HttpRequest;
use actix_web::http::header::{ETAG, HeaderName, IF_MATCH};
use leadr_auth_domain::Revision;
use utoipa::IntoParams;

use crate::fields::{Fields, Wrong, string};

/// The header that says which state it is.
pub(crate) fn etag(revision: Revision) -> (HeaderName, String) {
    (ETAG, format!("\"{revision}\""))
}

/// The header of a change.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes the header")]
pub(crate) struct IfMatchHeader {
    /// The `ETag` of what was read: the change is made if nothing has changed since. `*` is as good as none.
    #[param(
        rename = "If-Match",
        value_type = String,
        required = false,
        pattern = "^(\\*|(W/)?\"[!#-~\\u0080-\\u00FF]*\"([ \\t]*,[ \\t]*(W/)?\"[!#-~\\u0080-\\u00FF]*\")*)$"
    )]
    if_match: Option<String>,
}

/// What `If-Match` says, and which states that leaves: all where there is none, or where it is `*`.
pub(crate) fn if_match(request: &HttpRequest) -> (Fields, Option<Vec<Revision>>) {
    let mut header = Fields::header(request, &IF_MATCH, "If-Match");
    let seen = header.optional("If-Match", |value| {
        states(string(value)?).ok_or_else(|| {
            let msg = "Input should be '*' or a list of entity tags such as '\"abc\"'";
            Wrong::new("entity_tag", msg)
        })
    });
    (header, seen.flatten())
}

/// The states that a header's value names; `Some(None)` where it is any. `None` where it is not well-formed.
#[expect(clippy::option_option, reason = "what is said, if it can be read")]
fn states(value: &str) -> Option<Option<Vec<Revision>>> {
    if value.trim() == "*" {
        return Some(None);
    }
    let mut states = Vec::new();
    let mut rest = value.trim();
    loop {
        let tag = rest.strip_prefix("W/");
        let is_weak = tag.is_some();
        let opaque = tag.unwrap_or(rest).strip_prefix('"')?;
        let (opaque, behind) = opaque.split_once('"')?;
        if !opaque
            .bytes()
            .all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..))
        {
            return None;
        }
        // A weak tag matches nothing, and neither does one that is not of this service.
        if !is_weak && let Some(revision) = Revision::parse(opaque) {
            states.push(revision);
        }
        let behind = behind.trim_start();
        if behind.is_empty() {
            return Some(Some(states));
        }
        rest = behind.strip_prefix(',')?.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_is_read() {
        let (one, two) = (Revision::new([1; 16]), Revision::new([2; 16]));
        let tag = |revision| etag(revision).1;
        let (first, second) = (tag(one), tag(two));
        let of = |value: &str| states(value).unwrap().unwrap();
        assert_eq!(states(" * "), Some(None));
        assert_eq!(of(&first), [one]);
        assert_eq!(of(&format!("{first} ,\t{second}")), [one, two]);
        // What is no tag of ours matches nothing, and is no fault.
        assert_eq!(of("\"\""), []);
        assert_eq!(of(&format!("W/{first}, \"a,b\", \"ä\", {second}")), [two]);
    }

    #[test]
    fn what_is_no_list_of_tags_is_a_fault() {
        let tag = etag(Revision::new([1; 16])).1;
        for wrong in [
            "",
            "abc",
            "\"",
            "\"abc",
            "*, *",
            "w/\"a\"",
            "W/ \"a\"",
            "\"a b\"",
            "\"a\u{7f}\"",
            &format!("{tag} {tag}"),
            &format!("{tag},"),
            &format!(",{tag}"),
            &format!("{tag}x"),
        ] {
            assert_eq!(states(wrong), None, "{wrong}");
        }
    }
}
