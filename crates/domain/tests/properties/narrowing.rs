//! Scopes, and that no chain of keys that make keys ever widens.

use leadr_auth_domain::{
    Access, AccountId, Origin, Principal, Right, Scope, ScopeNotHeld, ScopeSet, Scopes,
};
use proptest::prelude::*;

const TENANT: Access = Access::Account(AccountId::from_random_bytes([1; 16]));

/// A scope. Its segments are of few words, so that one often covers another.
fn scope() -> impl Strategy<Value = Scope> {
    let words = prop::sample::select(vec!["docs", "doc", "eu", "keys-", "accounts.", "0"]);
    let own = (prop::collection::vec(words, 1..4), any::<bool>()).prop_map(|(words, is_wild)| {
        let end = if is_wild { ":*" } else { "" };
        format!("{}{end}", words.join(":"))
    });
    let rights = prop::sample::select(Right::ALL.to_vec()).prop_map(|right| right.to_string());
    prop_oneof![3 => own, 1 => rights].prop_map(|text| Scope::parse(&text).unwrap())
}

fn set() -> impl Strategy<Value = ScopeSet> {
    prop::collection::vec(scope(), 0..6).prop_map(|scopes| ScopeSet::new(scopes).unwrap())
}

fn scopes() -> impl Strategy<Value = Scopes> {
    prop_oneof![1 => Just(Scopes::All), 4 => set().prop_map(Scopes::Only)]
}

prop_compose! {
    fn principal()(is_operator in any::<bool>(), scopes in scopes()) -> Principal {
        let access = if is_operator { Access::All } else { TENANT };
        Principal { access, scopes, origin: Origin::SERVER }
    }
}

/// A text that somebody may ask for: a scope, or anything.
fn probe() -> impl Strategy<Value = String> {
    prop_oneof![4 => scope().prop_map(|scope| scope.to_string()), 1 => "[a-z:*]{0,12}"]
}

proptest! {
    /// A scope covers itself; what covers what covers a third covers that; and two that cover each other are one.
    #[test]
    fn covering_is_an_order(one in scope(), two in scope(), three in probe()) {
        prop_assert!(one.covers(one.as_str()));
        if one.covers(two.as_str()) && two.covers(&three) {
            prop_assert!(one.covers(&three), "{} {} {}", one, two, three);
        }
        prop_assert!(one == two || !(one.covers(two.as_str()) && two.covers(one.as_str())));
    }

    /// The service's own scopes are covered by themselves only.
    #[test]
    fn a_right_is_given_by_its_name(scope in scope(), n in 0..Right::ALL.len()) {
        let right = Right::ALL.into_iter().nth(n).unwrap().as_str();
        prop_assert_eq!(scope.covers(right), scope.as_str() == right);
    }

    /// More scopes never hold less.
    #[test]
    fn a_wider_set_holds_what_a_narrower_one_does(some in set(), more in set(), probe in probe()) {
        let all = ScopeSet::new(some.iter().chain(more.iter()).cloned()).unwrap();
        prop_assert_eq!(all.covers(&probe), some.covers(&probe) || more.covers(&probe));
    }

    /// A key holds nothing that its maker does not, however many keys lie between them, and whoever's they are.
    #[test]
    fn no_chain_of_keys_widens(
        first in principal(),
        asked in prop::collection::vec(prop::option::of(set()), 1..5),
        to_tenant in 0_usize..5,
        probes in prop::collection::vec(probe(), 1..8),
    ) {
        let mut maker = first.clone();
        for (n, asked) in asked.into_iter().enumerate() {
            let Ok(scopes) = maker.grant(asked) else { continue };
            // An operator gives a key to a tenant; nobody does it the other way round.
            let access = if n >= to_tenant { TENANT } else { maker.access };
            let made = Principal { access, scopes, ..maker.clone() };
            for probe in &probes {
                prop_assert!(!made.holds(probe) || maker.holds(probe), "{} {:?} {:?}", probe, made, maker);
                prop_assert!(!made.holds(probe) || first.holds(probe), "{} {:?} {:?}", probe, made, first);
            }
            prop_assert!(access == Access::All || !made.holds(Right::AccountsWrite.as_str()));
            prop_assert_eq!(maker.may_give(&made.held()), Ok(()));
            maker = made;
        }
    }

    /// What is held is granted as it was asked for, and what is not is refused by name, with nothing granted.
    #[test]
    fn all_of_it_is_granted_or_nothing(maker in principal(), asked in set()) {
        let missing = asked.iter().find(|scope| !maker.holds(scope.as_str()));
        let expected = match missing {
            None => Ok(Scopes::Only(asked.clone())),
            Some(scope) => Err(ScopeNotHeld(scope.to_string())),
        };
        prop_assert_eq!(maker.grant(Some(asked)), expected);
    }

    /// Who does not say which gets all that its maker holds.
    #[test]
    fn what_is_inherited_is_what_is_held(maker in principal(), probe in probe()) {
        let scopes = maker.grant(None).unwrap();
        let made = Principal { scopes, ..maker.clone() };
        prop_assert_eq!(made.holds(&probe), maker.holds(&probe));
        prop_assert_eq!(made.held(), made.scopes);
    }

    /// Who may give something may give any part of it.
    #[test]
    fn a_part_of_what_may_be_given_may_be_given(maker in principal(), given in set(), keep in any::<u8>()) {
        let scopes = Scopes::Only(given.clone());
        if maker.may_give(&scopes).is_ok() {
            let part: Vec<_> = given.iter().enumerate().filter(|(n, _)| keep >> n & 1 == 1).collect();
            let part = ScopeSet::new(part.into_iter().map(|(_, scope)| scope.clone())).unwrap();
            prop_assert_eq!(maker.may_give(&Scopes::Only(part)), Ok(()));
        }
        // All that there is, only who has it.
        prop_assert_eq!(maker.may_give(&Scopes::All).is_ok(), maker.scopes == Scopes::All);
    }

    /// A store gives back what it was given; and of whatever else is in it, nothing that it does not say.
    #[test]
    fn a_store_adds_no_scope(scopes in scopes(), other in "[a-z:* ]{0,24}", probe in probe()) {
        prop_assert_eq!(Scopes::from_store(scopes.to_store().as_deref()), scopes);
        let read = Scopes::from_store(Some(&other));
        let said = other.split_ascii_whitespace().filter_map(|word| Scope::parse(word).ok());
        let said = said.collect::<Vec<_>>();
        if Scope::parse(&probe).is_ok() {
            prop_assert_eq!(read.covers(&probe), said.iter().any(|scope| scope.covers(&probe)));
        }
    }
}
