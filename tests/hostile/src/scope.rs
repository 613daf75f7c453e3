//! Scopes, and that nobody gives what they do not hold.
//!
//! An input is lines. The first says who makes keys (`tenant` or `operator`) and with which scopes, the second which scopes a key is
//! to have that it makes, the third those of a key that this one makes; further lines are scopes to ask for. Scopes have a
//! blank between them, and `*` stands for all.

use leadr_auth_domain::{
    Access, AccountId, Origin, Principal, Right, Scope, ScopeFault, ScopeSet, Scopes,
};

use crate::Came;

pub(crate) const REACHES: &[&str] = &["granted", "passed on", "not held", "no set of scopes"];

/// Reads scopes, and has keys make keys.
pub fn scope(data: &[u8]) -> Came {
    let Ok(text) = std::str::from_utf8(data) else {
        return "no text".into();
    };
    let words: Vec<&str> = text.split([' ', '\n']).take(24).collect();
    for word in &words {
        let read = Scope::parse(word);
        assert_eq!(
            read.as_ref().map(Scope::as_str).err(),
            fault(word).as_ref(),
            "{word:?}"
        );
        assert!(read.is_err() || read.unwrap().as_str() == *word);
    }
    covering(&words);
    stored(text);

    let mut lines = text.split('\n');
    let maker = maker(lines.next().unwrap_or_default());
    let Ok(asked) = asked(lines.next().unwrap_or("*")) else {
        return "no set of scopes".into();
    };
    let probes: Vec<&str> = Right::ALL
        .map(Right::as_str)
        .into_iter()
        .chain(words)
        .collect();
    let Some(made) = narrowed(&maker, asked, &probes) else {
        return "not held".into();
    };
    let Some(Ok(asked)) = lines.next().map(self::asked) else {
        return "granted".into();
    };
    let Some(last) = narrowed(&made, asked, &probes) else {
        return "granted".into();
    };
    // Also by way of another key.
    within(&last, &maker, &probes);
    "passed on".into()
}

/// Whoever makes a key, from a line.
fn maker(line: &str) -> Principal {
    let (who, scopes) = line.split_once(' ').unwrap_or((line, "*"));
    Principal {
        access: match who {
            "operator" => Access::All,
            _ => Access::Account(AccountId::from_random_bytes([1; 16])),
        },
        // As a store may hold them, whoever wrote that.
        scopes: Scopes::from_store((scopes != "*").then_some(scopes)),
        origin: Origin::SERVER,
    }
}

/// The scopes that are asked for, from a line; none, if it says all.
fn asked(line: &str) -> Result<Option<ScopeSet>, ScopeFault> {
    if line == "*" {
        return Ok(None);
    }
    let scopes = line.split(' ').filter(|word| !word.is_empty());
    ScopeSet::new(scopes.map(Scope::parse).collect::<Result<Vec<_>, _>>()?).map(Some)
}

/// The key that one makes with these scopes, if it may: it holds nothing that its maker does not.
fn narrowed(maker: &Principal, asked: Option<ScopeSet>, probes: &[&str]) -> Option<Principal> {
    let granted = maker.grant(asked.clone());
    let lacked = asked.iter().flat_map(ScopeSet::iter);
    let lacked: Vec<_> = lacked
        .map(Scope::as_str)
        .filter(|scope| !maker.holds(scope))
        .collect();
    let scopes = match granted {
        Ok(scopes) => {
            assert!(lacked.is_empty(), "{maker:?} gives {lacked:?}");
            assert_eq!(maker.may_give(&scopes), Ok(()), "{maker:?}");
            scopes
        }
        Err(missing) => {
            assert!(
                lacked.contains(&missing.0.as_str()),
                "{maker:?} {missing:?}"
            );
            return None;
        }
    };
    if let Some(asked) = asked {
        assert_eq!(scopes.only(), Some(&asked), "as it was asked for");
    }
    let made = Principal {
        scopes,
        ..maker.clone()
    };
    within(&made, maker, probes);
    // A key of a tenant's that an operator makes reaches no further than one that an operator has.
    let tenant = Access::Account(AccountId::from_random_bytes([1; 16]));
    let of_a_tenant = Principal {
        access: tenant,
        ..made.clone()
    };
    within(&of_a_tenant, maker, probes);
    assert!(!of_a_tenant.holds(Right::AccountsWrite.as_str()));
    Some(made)
}

/// What the one holds, the other holds.
fn within(narrow: &Principal, wide: &Principal, probes: &[&str]) {
    for probe in probes {
        assert!(
            !narrow.holds(probe) || wide.holds(probe),
            "{narrow:?} holds {probe:?}, and {wide:?} does not"
        );
    }
    let held = narrow.held();
    assert!(wide.may_give(&held).is_ok(), "{wide:?} and {held:?}");
}

/// Which covers which, and that it is an order.
fn covering(words: &[&str]) {
    let scopes: Vec<Scope> = words
        .iter()
        .filter_map(|word| Scope::parse(word).ok())
        .take(8)
        .collect();
    for one in &scopes {
        assert!(one.covers(one.as_str()), "{one}");
        for text in words {
            assert_eq!(
                one.covers(text),
                covers(one.as_str(), text),
                "{one} {text:?}"
            );
        }
        for two in scopes.iter().filter(|two| one.covers(two.as_str())) {
            for three in scopes.iter().filter(|three| two.covers(three.as_str())) {
                assert!(one.covers(three.as_str()), "{one} {two} {three}");
            }
            assert!(one == two || !two.covers(one.as_str()), "{one} {two}");
        }
    }
    if let Ok(set) = ScopeSet::new(scopes.clone()) {
        for text in words {
            let any = scopes.iter().any(|scope| scope.covers(text));
            assert_eq!(set.covers(text), any, "{text:?}");
        }
    }
}

/// Whatever a store holds, what is read of it stays as it is, and nothing in it stands for more than it says.
fn stored(text: &str) {
    let read = Scopes::from_store(Some(text));
    assert_eq!(
        Scopes::from_store(read.to_store().as_deref()),
        read,
        "{text:?}"
    );
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    for right in Right::ALL.map(Right::as_str) {
        assert_eq!(
            read.covers(right),
            words.contains(&right),
            "{text:?} {right}"
        );
    }
    for scope in read.only().unwrap().iter() {
        assert!(words.contains(&scope.as_str()), "{text:?} {scope}");
    }
}

const RIGHTS: [&str; 6] = [
    "keys:read",
    "keys:write",
    "keys:verify",
    "accounts:read",
    "accounts:write",
    "audit:read",
];

fn is_reserved(text: &str) -> bool {
    let first = text.split(':').next();
    matches!(first, Some("keys" | "accounts" | "audit"))
}

/// What is wrong with a text as a scope: `^[a-z0-9_.-]+(:[a-z0-9_.-]+)*(:\*)?$`, at most 128 characters, and of the service's own
/// only those that there are.
fn fault(text: &str) -> Option<ScopeFault> {
    let max = 128;
    if text.len() > max {
        return Some(ScopeFault::TooLong { max });
    }
    let mut segments: Vec<&str> = text.split(':').collect();
    if segments.len() > 1 && segments.last() == Some(&"*") {
        segments.pop();
    }
    let is_plain = |segment: &&str| {
        let allowed = |c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '.' | '-');
        !segment.is_empty() && segment.chars().all(allowed)
    };
    if !segments.iter().all(is_plain) {
        return Some(ScopeFault::Malformed);
    }
    (is_reserved(text) && !RIGHTS.contains(&text)).then_some(ScopeFault::Unknown)
}

/// Does a scope cover a text? By segments: a last one of `*` stands for one or more of them, and for none of the service's own.
fn covers(scope: &str, text: &str) -> bool {
    let segments: Vec<&str> = scope.split(':').collect();
    match segments.split_last() {
        Some((&"*", stem)) if scope != text => {
            let asked: Vec<&str> = text.split(':').collect();
            let goes_on = asked.len() > stem.len() && text.len() > scope.len() - 1;
            goes_on && asked.starts_with(stem) && !is_reserved(text)
        }
        _ => scope == text,
    }
}
